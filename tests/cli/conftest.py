from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.process import python

from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.cli.main import main
from panodetr.model.detr import Detr

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def panodetr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """The command line in this process, which has loaded torch already, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        given = [str(argument) for argument in arguments]
        code = main(given)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(given, code, printed.out, printed.err)

    return run


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The real program, a process of its own, in the same folder."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return python("-m", "panodetr", *arguments, cwd=tmp_path)

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_spec: ModelSpec) -> Path:
    """A checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    torch.manual_seed(0)
    save_checkpoint(folder, tiny_spec, Detr(tiny_spec.architecture).state_dict())
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three good images, smaller and larger than a tile of the tiny model."""
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name, size in (("a.png", (40, 56, 3)), ("b.jpg", (64, 64, 3)), ("c.png", (80, 100, 3))):
        Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A split `val` of two images of noise, each with one nucleus on background."""
    return write_data(tmp_path)


def write_data(place: Path, count: int = 2) -> Path:
    """Write the data set of the fixture, or one of more images, into a folder `data`."""
    folder = place / "data"
    for sub in ("val", "panoptic_val"):
        (folder / sub).mkdir(parents=True)
    noise = np.random.default_rng(0)
    ids = np.ones((64, 64), np.uint8)
    ids[10:30, 20:40] = 2
    segments = [
        {"id": 1, "category_id": 9, "area": 64 * 64 - 400, "bbox": [0, 0, 64, 64], "iscrowd": 0},
        {"id": 2, "category_id": 7, "area": 400, "bbox": [20, 10, 20, 20], "iscrowd": 0},
    ]
    names = [f"{number}.png" for number in range(1, count + 1)]
    for name in names:
        image = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "val" / name)
        id_map = np.stack([ids, ids * 0, ids * 0], axis=-1)
        Image.fromarray(id_map).save(folder / "panoptic_val" / name)
    document = {
        "images": [
            {"id": number, "file_name": name, "height": 64, "width": 64}
            for number, name in enumerate(names, start=1)
        ],
        "annotations": [
            {"image_id": number, "file_name": name, "segments_info": segments}
            for number, name in enumerate(names, start=1)
        ],
        "categories": [
            {"id": 7, "name": "nucleus", "isthing": 1, "color": [220, 20, 60]},
            {"id": 9, "name": "background", "isthing": 0, "color": [0, 0, 0]},
        ],
    }
    (folder / "panoptic_val.json").write_text(json.dumps(document))
    return folder
