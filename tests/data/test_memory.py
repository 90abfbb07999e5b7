from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panodetr.results.id_map import id_map_png

SIDE, ACROSS = 2000, 10
IMAGE, ID_MAP, STACK = 3 * SIDE**2, 4 * SIDE**2, ACROSS**2 * SIDE**2
"""Bytes of the large image, of a map of it, and of the masks of all its objects."""


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """A small image and a large one, wholly covered by squares: 4 of them, and 100 of them."""
    images: list[dict[str, object]] = []
    segments: list[dict[str, object]] = []
    objects: list[dict[str, object]] = []
    for part in ("images", "panoptic"):
        (tmp_path / part).mkdir()
    for image_id, (whole, across) in enumerate(((100, 2), (SIDE, ACROSS)), start=1):
        name, side = f"{image_id}.png", whole // across
        ids = np.arange(1, across**2 + 1, dtype=np.int32).reshape(across, across)
        ids = ids.repeat(side, axis=0).repeat(side, axis=1)
        Image.new("RGB", (whole, whole)).save(tmp_path / "images" / name)
        (tmp_path / "panoptic" / name).write_bytes(id_map_png(ids))
        images.append({"id": image_id, "file_name": name, "height": whole, "width": whole})
        infos: list[dict[str, object]] = []
        for number in range(across**2):
            y, x = (side * place for place in divmod(number, across))
            infos.append({"id": number + 1, "category_id": 1, "area": side**2})
            corners = [x, y, x + side, y, x + side, y + side, x, y + side]
            objects.append(
                {"id": len(objects) + 1, "image_id": image_id, "category_id": 1,
                 "bbox": [x, y, side, side], "area": side**2, "segmentation": [corners]}
            )  # fmt: skip
        segments.append({"image_id": image_id, "file_name": name, "segments_info": infos})
    categories = [{"id": 1, "name": "square", "isthing": 1, "color": [1, 2, 3]}]
    for name, listed in (("panoptic", segments), ("instances", objects)):
        document = {"images": images, "annotations": listed, "categories": categories}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="measures by the module resource")
@pytest.mark.parametrize("format", ["coco-panoptic", "coco-instances"])
def test_reading_a_image_holds_one_map_of_it_and_no_stack_of_masks(
    squares: Path, format: str
) -> None:
    script = Path(__file__).with_name("memory.py")
    done = subprocess.run(
        [sys.executable, script, squares, format],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    traced, grown = map(int, done.stdout.split())
    # The image and a map of it; besides, what a picture is decoded through.
    assert traced < IMAGE + ID_MAP + 1.1 * IMAGE
    # Pillow and hotcoco allocate by themselves.
    assert grown < 3 * (IMAGE + ID_MAP) < STACK / 4
