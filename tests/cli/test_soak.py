"""Files with random damage: each command ends with a result or with errors of one line each.

`make soak` runs this at length; `.ci/run` runs a sample. PANODETR_SOAK is the number of mutations
of each file. A failure names its seed; the same seed damages the file in the same way again.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from panodetr.cli.main import main

pytestmark = [pytest.mark.soak, pytest.mark.filterwarnings("default")]

MUTATIONS = int(os.environ.get("PANODETR_SOAK", "10"))
TOKENS = (b"-1", b"0", b"1e400", b"1e18", b"NaN", b"null", b"true", b'""', b"[]", b"{}", b"[[[[")


def mutate(contents: bytes, seed: int) -> bytes:
    """Damage a file in one to three places."""
    chance = random.Random(seed)
    data = bytearray(contents)
    for _ in range(chance.randint(1, 3)):
        # Half of the damage hits the start, where formats describe themselves.
        place = chance.randrange(min(len(data), 200) if chance.random() < 0.5 else len(data))
        length = chance.randint(1, 16)
        kind = chance.choice(("flip", "cut", "drop", "repeat", "noise", "token"))
        if kind == "flip":
            data[place] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[max(1, place) :]
        elif kind == "drop":
            del data[place : place + length]
            data = data or bytearray(b"\0")
        elif kind == "repeat":
            data[place:place] = data[place : place + length]
        elif kind == "noise":
            data[place : place + length] = chance.randbytes(length)
        else:
            data[place : place + length] = chance.choice(TOKENS)
    return bytes(data)


Soak = Callable[[Path, list[str]], None]


@pytest.fixture
def soak(capsys: pytest.CaptureFixture[str]) -> Soak:
    """Damage a file again and again, and run a command that reads it."""

    def run(file: Path, command: list[str]) -> None:
        good = file.read_bytes()
        assert main(command) == 0, capsys.readouterr().err
        for seed in range(MUTATIONS):
            file.write_bytes(mutate(good, seed))
            capsys.readouterr()
            try:
                code = main(command)
            except Exception as error:
                raise AssertionError(f"seed {seed} of {file.name}") from error
            lines = capsys.readouterr().err.splitlines()
            assert code in (0, 1), f"seed {seed} of {file.name}: {lines}"
            if code == 1:
                errors = [line for line in lines if not line.startswith("[")]  # but progress
                assert all(line.startswith("panodetr: error: ") for line in errors), (seed, errors)

    return run


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damaged_checkpoints(
    soak: Soak, tiny_model: Path, images: Path, tmp_path: Path, name: str
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    soak(model / name, ["segment", str(images / "a.png"), "--model", str(model), "--json"])


def test_damaged_exported_models(soak: Soak, tiny_onnx: Path, images: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx.zip"
    shutil.copy(tiny_onnx, model)
    soak(model, ["segment", str(images / "a.png"), "--model", str(model), "--json"])


@pytest.mark.parametrize("name", ["panoptic_val.json", "panoptic_val/1.png", "val/1.png"])
def test_damaged_data_sets(soak: Soak, data: Path, name: str) -> None:
    soak(data / name, ["data", "check", str(data)])


@pytest.mark.parametrize("name", ["found.json", "found/1.png", "panoptic_val.json"])
def test_damaged_evaluation_files(soak: Soak, data: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(data / "panoptic_val.json", data / "found.json")
    shutil.copytree(data / "panoptic_val", data / "found")
    files = ["--predictions", str(data / "found.json")]
    files += ["--ground-truth", str(data / "panoptic_val.json"), "--out", str(tmp_path / "report")]
    soak(data / name, ["eval", *files])


@pytest.mark.parametrize("name", ["a.png", "b.jpg"])
def test_damaged_images(soak: Soak, tiny_model: Path, images: Path, name: str) -> None:
    soak(images / name, ["segment", str(images / name), "--model", str(tiny_model), "--json"])
