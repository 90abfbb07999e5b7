from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.images.preprocess import Preprocessing
from panodetr.model.detr import Detr

OFFICIAL = (439180, 142238, 39769)
"""The images whose panoptic truth is COCO's own; the last is the model card's."""


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_spec: ModelSpec) -> Path:
    """A model with masks that resizes as the published ones do, to less."""
    folder = tmp_path_factory.mktemp("compat") / "tiny"
    rule = Preprocessing(short_side=96, long_side=160)
    torch.manual_seed(0)
    model = Detr(tiny_spec.architecture)
    save_checkpoint(folder, replace(tiny_spec, preprocessing=rule), model.state_dict())
    return folder


@dataclass(frozen=True)
class Official:
    """An image, its annotation, and the folder of the id maps."""

    image: Path
    annotation: dict[str, Any]
    folder: Path


@pytest.fixture(params=OFFICIAL)
def official(request: pytest.FixtureRequest, shared_data: Path) -> Official:
    folder = shared_data / "coco-panoptic"
    if not folder.is_dir():
        pytest.skip(f"no COCO images at {folder}")
    document = json.loads((folder / "panoptic.json").read_text("utf-8"))
    image = next(one for one in document["images"] if one["id"] == request.param)
    annotation = next(one for one in document["annotations"] if one["image_id"] == request.param)
    assert annotation["official"]
    return Official(folder / "images" / image["file_name"], annotation, folder / "panoptic")
