from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from panodetr.checkpoints.native import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.model.detr import Detr

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def panodetr(tmp_path: Path) -> Program:
    """The real program, run in a folder of its own."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "panodetr", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
            check=False,
            # One thread: the models are tiny, and the machine may be shared.
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        )

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_spec: ModelSpec) -> Path:
    """A checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    torch.manual_seed(0)
    save_checkpoint(folder, tiny_spec, Detr(tiny_spec.architecture).state_dict())
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three good photos, smaller and larger than a tile of the tiny model."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name, size in (("a.png", (40, 56, 3)), ("b.jpg", (64, 64, 3)), ("c.png", (80, 100, 3))):
        Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8)).save(folder / name)
    return folder
