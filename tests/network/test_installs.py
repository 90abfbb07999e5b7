"""Installing beside other software: what pip resolves, and the versions of the hub's client.

They need a package index, not the hub: `pytest -m network tests/network/test_installs.py`.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
import torch
from tests.process import python

pytestmark = pytest.mark.network

PROJECT = Path(__file__).resolve().parents[2]
TORCH = torch.__version__.split("+")[0]


def pip(*arguments: str | Path) -> None:
    done = python("-m", "pip", "-q", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (["transformers==4.57.*"], {"transformers": r"4\.57\.", "huggingface_hub": r"0\."}),
        (["transformers>=5,<6"], {"transformers": r"5\.", "huggingface_hub": r"[12]\."}),
        (["rfdetr", "supervision"], {"rfdetr": "", "supervision": "", "hotcoco": r"1\.[3-9]"}),
    ],
    ids=lambda value: "+".join(value),
)
def test_other_libraries_fit_beside(
    tmp_path: Path, others: list[str], expected: dict[str, str]
) -> None:
    constraints, report = tmp_path / "constraints.txt", tmp_path / "report.json"
    constraints.write_text(f"torch=={TORCH}\n")  # other versions are CUDA builds of several GB
    pip("install", "--dry-run", "--ignore-installed", "-c", constraints, "--report", report,
        PROJECT, *others)  # fmt: skip
    chosen = {
        part["metadata"]["name"].replace("-", "_"): part["metadata"]["version"]
        for part in json.loads(report.read_text())["install"]
    }
    for name, version in expected.items():
        assert re.match(version, chosen[name]), (name, chosen[name])


@pytest.fixture(scope="module", params=["0.34.*", "0.36.*", "1.3.*", "2.4.*"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one version of the hub's client and what it imports."""
    folder = tmp_path_factory.mktemp("client")
    pip("install", "--no-deps", "--target", folder, f"huggingface_hub=={request.param}")
    for needed in ("httpx", "requests"):  # of 1.x, and of 0.x
        pip("install", "--target", folder, needed)
    return folder


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot reach the hub"),
        ({"HF_ENDPOINT": "http://hub.invalid"}, "cannot reach the hub"),
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is on"),
    ],
    ids=["refused", "no such host", "offline mode"],
)
def test_an_unknown_id_fails_soon_and_in_one_line(
    client: Path, tmp_path: Path, environment: dict[str, str], reason: str
) -> None:
    paths = os.pathsep.join([str(client), str(PROJECT / "src")])
    start = time.perf_counter()
    more = {**environment, "PYTHONPATH": paths, "HF_HOME": str(tmp_path)}
    done = python("-m", "panodetr", "convert", "owner/nothing", tmp_path / "out", more=more)
    took = time.perf_counter() - start
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert took < 6, "3 seconds on a machine that has nothing else to do"
