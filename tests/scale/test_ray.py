"""A Ray cluster of two nodes on this machine: the same rows, whatever is killed."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from tests.cli.conftest import write_data
from tests.process import python, start, wait_until

from harness.image import SAMPLE, BenchImage
from harness.weights import RandomModel, write_random_model
from panodetr.cli.main import main
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import DetrConfig

from .conftest import read_rows

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
ALONE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
"""Ray tells nobody of its use, and writes no token into the home folder."""

IMAGES = 36
SIDE = 256


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """A cluster with a head and another node, each with room for one worker."""

    cluster: Any
    other: Any

    @property
    def address(self) -> str:
        return self.cluster.address

    def workers(self) -> list[psutil.Process]:
        """The processes that hold a model, of either node."""
        found: list[psutil.Process] = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.name().startswith("ray::_Worker"):
                    found.append(process)
        return found


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Generator[Nodes]:
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        yield Nodes(cluster=cluster, other=cluster.add_node(**NODE))
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    """A detector with a ResNet-50 and random weights."""
    rule = Preprocessing(short_side=SIDE, long_side=2 * SIDE)
    image = BenchImage(file=SAMPLE, size=(SIDE, SIDE + 40))
    folder = tmp_path_factory.mktemp("r50") / "r50"
    return write_random_model(folder, DetrConfig(num_classes=91), image, 5, rule)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images for a run that can be interrupted; one is broken."""
    folder = tmp_path_factory.mktemp("many")
    with Image.open(SAMPLE) as sample:
        for number in range(IMAGES):
            box = (number, 2 * number, number + 300, 2 * number + 260)
            sample.convert("RGB").crop(box).save(folder / f"{number:02}.png")
    (folder / "13.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def command(model: RandomModel, many: Path) -> list[str]:
    few = str(0.85 * model.threshold)  # which keeps some queries in every image
    settings = ["--model", str(model.folder), "--threshold", few, "--part-size", "4"]
    return ["detect", str(many), *settings, "--out"]


@pytest.fixture(scope="module")
def expected(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of the engine in one process."""
    out = tmp_path_factory.mktemp("local")
    assert main([*command, str(out), "--engine", "local", "--quiet"]) == 1
    rows = read_rows(out)
    assert len(rows) == IMAGES - 1
    assert sum(len(row["segments"]) for row in rows) > IMAGES
    return rows


def begin(command: list[str], nodes: Nodes | None, *more: str) -> subprocess.Popen[str]:
    words = [*command, *more, "--engine", "ray", "--json"]
    words += [] if nodes is None else ["--address", nodes.address]
    return start("-m", "panodetr", *words, more=ALONE)


def finish(process: subprocess.Popen[str], seconds: float = 150) -> dict[str, Any]:
    try:
        out, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert out, errors
    return json.loads(out)


def test_two_nodes_write_what_one_process_writes(
    command: list[str], expected: list[dict[str, Any]], nodes: Nodes, tmp_path: Path
) -> None:
    done = finish(begin(command, nodes, str(tmp_path)))
    assert (done["images"], done["errors"], done["parts"]) == (IMAGES - 1, 1, IMAGES // 4)
    assert read_rows(tmp_path) == expected
    assert len(list((tmp_path / "errors").iterdir())) == 1
    again = finish(begin(command, nodes, str(tmp_path), "--resume"))
    assert (again["images"], again["parts"], again["parts_there"]) == (0, 0, IMAGES // 4)


@pytest.mark.parametrize("killed", ["worker", "node"])
def test_killed_workers_lose_no_row_and_repeat_none(
    command: list[str], expected: list[dict[str, Any]], nodes: Nodes, tmp_path: Path, killed: str
) -> None:
    process = begin(command, nodes, str(tmp_path))
    wait_until(lambda: len(list(tmp_path.glob("part-*"))) >= 3 and len(nodes.workers()) == 2)
    if killed == "worker":
        nodes.workers()[0].send_signal(signal.SIGKILL)
    else:
        nodes.cluster.remove_node(nodes.other, allow_graceful=False)
    assert len(list(tmp_path.glob("part-*"))) < IMAGES // 4  # it was in mid-run
    done = finish(process)
    assert (done["images"], done["errors"], done["parts_lost"]) == (IMAGES - 1, 1, 0)
    assert read_rows(tmp_path) == expected
    assert not [path for path in tmp_path.rglob(".*") if path.name.startswith(".writing")]


def test_a_killed_run_is_resumed(
    command: list[str], expected: list[dict[str, Any]], nodes: Nodes, tmp_path: Path
) -> None:
    process = begin(command, nodes, str(tmp_path))
    wait_until(lambda: len(list(tmp_path.glob("part-*"))) >= 3)
    process.kill()
    process.communicate()
    done = finish(begin(command, nodes, str(tmp_path), "--resume"))
    assert 3 <= done["parts_there"] < IMAGES // 4
    assert read_rows(tmp_path) == expected


@pytest.mark.parametrize("kind", ["tiny_folder", "eomt_folder"])
def test_without_an_address_a_cluster_is_started_for_the_run(
    images: Path, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(kind)
    command = ["segment", str(images), "--model", str(model), "--part-size", "3"]
    command += ["--threshold", "0.1", "--workers", "1", "--out"]
    done = finish(begin(command, None, str(tmp_path / "ray")))
    assert (done["images"], done["errors"], done["parts"]) == (8, 1, 3)
    run_alone([*command, str(tmp_path / "local"), "--engine", "local"], code=1)
    assert read_rows(tmp_path / "ray") == read_rows(tmp_path / "local")


def test_eval_on_two_nodes_gives_the_figures_of_one_process(
    tiny_folder: Path, nodes: Nodes, tmp_path: Path
) -> None:
    data = write_data(tmp_path, 7)
    command = ["eval", "--data", str(data), "--model", str(tiny_folder)]
    command += ["--task", "boxes,instances,panoptic", "--threshold", "0.1", "--part-size", "2"]
    found = [
        finish(begin([*command, "--out", str(tmp_path / "ray")], nodes)),
        json.loads(run_alone([*command, "--out", str(tmp_path / "alone"), "--json"])),
    ]
    for metrics in found:
        assert metrics.pop("seconds_per_image") > 0
    assert found[0] == found[1]
    assert found[0]["images"] == 7


def run_alone(command: list[str], *, code: int = 0) -> str:
    done = python("-m", "panodetr", *command)
    assert done.returncode == code, done.stderr
    return done.stdout
