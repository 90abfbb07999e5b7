from __future__ import annotations

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from panodetr.results.id_map import decode_ids, encode_ids, id_map_png, run_starts


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_ids_come_back_from_colours_and_from_a_png(height: int, width: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 2**24, (height, width)).astype(np.int32)
    assert np.array_equal(decode_ids(encode_ids(ids)), ids)
    with Image.open(io.BytesIO(id_map_png(ids))) as image:
        assert (image.mode, image.size) == ("RGB", (width, height))
        assert np.array_equal(decode_ids(np.asarray(image)), ids)
    known = np.array([[1 + 256 * 2 + 65536 * 3]], np.int32)
    assert encode_ids(known).tolist() == [[[1, 2, 3]]]  # as COCO orders the bytes


def test_runs_begin_where_any_map_changes_and_at_each_row() -> None:
    one, other = np.array([[1, 1, 2], [2, 2, 2]]), np.array([[0, 0, 0], [0, 5, 5]])
    assert run_starts(one).tolist() == [0, 2, 3]
    assert run_starts(one, other).tolist() == [0, 2, 3, 4]
    assert run_starts(one.ravel(), other.ravel()).tolist() == [0, 2, 4]
