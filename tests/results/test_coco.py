from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from panodetr.errors import DataError
from panodetr.results.coco import decode_ids, encode_ids, id_map_png, read_id_map
from panodetr.results.types import PanopticResult


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_ids_come_back_from_colours_and_from_a_png(height: int, width: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 2**24, (height, width)).astype(np.int32)
    assert np.array_equal(decode_ids(encode_ids(ids)), ids)
    with Image.open(io.BytesIO(id_map_png(ids))) as image:
        assert (image.mode, image.size) == ("RGB", (width, height))
        assert np.array_equal(decode_ids(np.asarray(image)), ids)


def test_the_order_of_the_bytes_is_cocos() -> None:
    assert encode_ids(np.array([[1 + 256 * 2 + 65536 * 3]], np.int32)).tolist() == [[[1, 2, 3]]]


def test_read_id_map(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(id_map_png(np.array([[0, 300]], np.int32)))
    assert read_id_map(path).tolist() == [[0, 300]]


def test_what_is_no_id_map_is_named(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "grey.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("grey.png", "broken.png", "missing.png"):
        with pytest.raises(DataError, match=name) as error:
            read_id_map(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_result_as_json(make_result: Callable[..., PanopticResult], tmp_path: Path) -> None:
    result = make_result(np.array([[1, 1, 2], [2, 2, 2]], np.int32), tmp_path / "a.png")
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
