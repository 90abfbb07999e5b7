from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panodetr.errors import PanodetrError
from panodetr.results.id_map import decode_ids
from panodetr.results.masks import Frame
from panodetr.results.result import LARGEST_PNG, DetectionResult
from panodetr.results.types import Candidates, CoarseMask, Detection

from .conftest import MakeResult

IDS = np.array([[1, 1, 2], [2, 2, 2]], np.int32)


def test_three_files_that_belong_together(make_result: MakeResult, tmp_path: Path) -> None:
    files = make_result(IDS, tmp_path / "cells.tif").save(tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    names = ["cells.json", "cells_overlay.png", "cells_panoptic.png"]
    assert [files.json, files.overlay, files.id_map] == [out / name for name in names]
    assert sorted(out.iterdir()) == [out / name for name in names]
    with Image.open(files.id_map) as id_map:
        assert np.array_equal(decode_ids(np.asarray(id_map)), IDS)
    info = json.loads(files.json.read_text("utf-8"))
    assert info["file_name"] == "cells_panoptic.png"
    assert [segment["id"] for segment in info["segments_info"]] == [1, 2]
    with Image.open(files.overlay) as overlay:
        assert overlay.format == "PNG"


def test_same_names_of_other_images_are_kept_apart(make_result: MakeResult, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sources = [tmp_path / "a/x.png", tmp_path / "b/x.png", tmp_path / "a/x.jpg"]
    names = [make_result(IDS, source).save(out).json.name for source in sources]
    assert names == ["x.json", "x-2.json", "x-3.json"]
    # A later run gives each image its own files again, in whatever order.
    again = [make_result(IDS, source).save(str(out)).json.name for source in reversed(sources)]
    assert again == ["x-3.json", "x-2.json", "x.json"]
    assert len(list(out.iterdir())) == 9
    for name, source in zip(names, sources, strict=True):
        assert json.loads((out / name).read_text("utf-8"))["source"] == str(source)
    # A result without a source overwrites nothing.
    assert [make_result(IDS).save(out).json.name for _ in range(2)] == [
        "image.json",
        "image-2.json",
    ]


@pytest.mark.parametrize("ending", [".json", "_overlay.png", "_overlay.jpg", "_panoptic.png"])
def test_a_users_own_file_is_never_overwritten(
    make_result: MakeResult, tmp_path: Path, ending: str
) -> None:
    own = tmp_path / f"x{ending}"
    own.write_bytes(b"{}")
    assert make_result(IDS, tmp_path / "x.png").save(tmp_path).json.name == "x-2.json"
    assert own.read_bytes() == b"{}"


def test_a_large_overlay_is_a_jpeg_and_replaces_the_earlier_png(
    make_result: MakeResult, tmp_path: Path
) -> None:
    source = tmp_path / "x.png"
    small = make_result(IDS, source).save(tmp_path)
    large = make_result(np.ones((1000, LARGEST_PNG // 1000 + 1), np.int32), source).save(tmp_path)
    assert large.overlay == tmp_path / "x_overlay.jpg"
    assert not small.overlay.exists()
    with Image.open(large.overlay) as overlay:
        assert overlay.format == "JPEG"
    assert make_result(IDS, source).save(tmp_path).overlay == small.overlay
    assert not large.overlay.exists()


def test_a_folder_that_cannot_be_is_named(make_result: MakeResult, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PanodetrError, match="file") as error:
        make_result(IDS, tmp_path / "x.png").save(tmp_path / "file")
    assert "\n" not in str(error.value)


def test_a_result_as_json(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result(IDS, tmp_path / "a.png")
    info = json.loads(json.dumps(result.to_dict()))
    assert info["image"] == "a.png"
    assert info["source"] == str(tmp_path / "a.png")
    assert (info["height"], info["width"]) == (2, 3)
    assert info["segments_info"] == [
        {"id": 1, "category_id": 7, "label": "cell", "isthing": 1, "score": 0.9,
         "bbox": [0, 0, 2, 1], "area": 2, "iscrowd": 0},
        {"id": 2, "category_id": 9, "label": "ground", "isthing": 0, "score": 0.9,
         "bbox": [0, 0, 3, 2], "area": 4, "iscrowd": 0},
    ]  # fmt: skip
    assert info["categories"][1] == {
        "id": 9, "name": "ground", "isthing": 0, "color": [40, 40, 200],
    }  # fmt: skip
    assert make_result(np.ones((1, 1), np.int32)).to_dict()["source"] is None


def test_detections_as_json_are_numbered_as_their_labels_are() -> None:
    found = (Detection(label="cell", category_id=7, score=s, box=(1, 2, 4, 8)) for s in (0.9, 0.8))
    image = np.zeros((9, 8, 3), np.uint8)
    result = DetectionResult(detections=tuple(found), image=image, source=None, categories=())
    objects = [(o["id"], o["score"], o["bbox"]) for o in result.to_dict()["detections"]]
    assert objects == [(1, 0.9, [1, 2, 3, 6]), (2, 0.8, [1, 2, 3, 6])]
    assert repr(result) == "DetectionResult(2 objects: 2 cell; 8x9 pixels)"


def test_a_repr_is_one_short_line(make_result: MakeResult) -> None:
    result = make_result(IDS, Path("in/a.png"))
    assert repr(result) == "PanopticResult(2 segments: 1 cell, 1 ground; a.png, 3x2 pixels)"
    nothing = replace(result, segments=(), source=None)
    assert repr(nothing) == "PanopticResult(0 segments; 3x2 pixels)"
    names = [replace(result.segments[0], label=f"class {number}") for number in range(9)]
    assert len(repr(replace(result, segments=tuple(names)))) < 100
    zeros = np.zeros((2, 4), np.float32)
    mask = CoarseMask(
        logits=zeros, frame=Frame((8, 8), (9, 7)), tile=(0, 0, 9, 7), image_size=(9, 7)
    )
    assert "array" not in repr(mask)
    found = Candidates(
        scores=zeros[:, 0],
        category_ids=np.ones(2, np.int64),
        boxes=zeros,
        image_size=(9, 7),
        coarse_masks=(mask, mask),
    )
    assert repr(found) == "Candidates(2 boxes, 2 masks; 7x9 pixels)"
