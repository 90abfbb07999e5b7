"""Small data sets of every format, written anew for each test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from panodetr.data.dataset import Dataset, Format, Source
from panodetr.data.formats import Faults
from panodetr.data.samples import InstanceImage, Sample

SIZES = ((20, 30), (40, 24), (16, 16))
"""Of the images 1.png, 2.png and 3.png, height and width."""


def read_strictly(folder: Path, split: str, format: Format) -> Dataset:
    """Read a split as it is read for comparing results: the first fault is raised."""
    source = Source(folder)
    return source.read(*source.choose(split, format), Faults())


def panoptic_samples(folder: Path, split: str) -> list[Sample]:
    samples = read_strictly(folder, split, "coco-panoptic").samples
    return [sample for sample in samples if isinstance(sample, Sample)]


def instance_images(folder: Path, split: str) -> list[InstanceImage]:
    samples = read_strictly(folder, split, "coco-instances").samples
    return [sample for sample in samples if isinstance(sample, InstanceImage)]


def edit(*path: str | int, to: object) -> Callable[[Any], None]:
    """A change of one place in the document; None takes it out."""

    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        if to is None:
            del document[path[-1]]
        elif path[-1] == "+":
            document.append(to)
        else:
            document[path[-1]] = to

    return change


def write_image(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    """An image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(path)


def blobs(size: tuple[int, int], seed: int) -> NDArray[np.int32]:
    """An id map of three things: 3 with a hole, 7 in two parts, 300 whole."""
    height, width = size
    ids = np.zeros(size, np.int32)
    ids[1:7, 1:8] = 3
    ids[3:5, 3:5] = 0
    ids[height - 3 :, 0:3] = 7
    ids[height - 6 : height - 4, 2:6] = 7
    ids[2 + seed : 6 + seed, width - 5 : width - 1] = 300
    return ids


@pytest.fixture
def id_folder(tmp_path: Path) -> Path:
    """Three images with 16-bit id maps of the class "cell"."""
    folder = tmp_path / "cells"
    for number, size in enumerate(SIZES, start=1):
        write_image(folder / "images" / f"{number}.png", size, number)
        path = folder / "masks" / "cell" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blobs(size, number).astype(np.uint16)).save(path)
    return folder


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Path:
    """Two splits: polygons in both, and an image without labels."""
    folder = tmp_path / "yolo"
    write_image(folder / "images" / "train" / "000000000007.png", (40, 80), 1)
    write_image(folder / "images" / "train" / "000000000009.jpg", (50, 50), 2)
    write_image(folder / "images" / "val" / "x.png", (32, 32), 3)
    labels = folder / "labels"
    (labels / "train").mkdir(parents=True)
    (labels / "val").mkdir()
    (labels / "train" / "000000000007.txt").write_text(
        "0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n\n1 0.6 0.1 0.9 0.1 0.75 0.5\n"
    )
    (labels / "val" / "x.txt").write_text("1 0 0 1 0 1 1\n")
    (folder / "data.yaml").write_text(
        "path: /somewhere/else\ntrain: images/train\nval: images/val\nnames: [cat, 'dog: big']\n"
    )
    return folder


@pytest.fixture
def boxes_folder(tmp_path: Path) -> Path:
    """COCO's own layout with boxes only: three images of 20 x 30, 40 x 24 and 16 x 16."""
    folder = tmp_path / "boxes"
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (height, width) in enumerate(SIZES, start=1):
        write_image(folder / "val2017" / f"{number}.png", (height, width), number)
        images.append(
            {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
        )
    for number, image_id in enumerate((1, 1, 2), start=1):
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": 90,
                "bbox": [number, 2, 6.5, 7],
                "area": 45.5,
                "iscrowd": int(number == 2),
            }
        )
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return folder
