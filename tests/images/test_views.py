from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from panodetr.errors import ImageError
from panodetr.images import views as views_module
from panodetr.images.preprocess import Preprocessing, resize
from panodetr.images.views import (
    BATCH_PIXELS,
    lay_tiles,
    processed_size,
    read_tiled,
    tile_boxes,
    view_batches,
)
from panodetr.results.types import Box

OWN = Preprocessing(short_side=None, long_side=None, enlarge=1.5, tile=96, tile_overlap=48)


@pytest.mark.parametrize(
    ("size", "seen"), [((96, 96), (144, 144)), ((1, 3), (2, 4)), ((40, 96), (60, 144))]
)
def test_images_of_their_own_resolution_are_enlarged(
    size: tuple[int, int], seen: tuple[int, int]
) -> None:
    assert processed_size(size, OWN) == seen
    tiny = Preprocessing(short_side=None, long_side=None, enlarge=0.01)
    assert processed_size((20, 300), tiny) == (1, 3)  # nothing shrinks to nothing


def test_tiles_are_of_the_images_pixels_and_views_enlarged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 200, 3), np.uint8)
    views = [view for batch in view_batches([read_tiled(image, OWN)], OWN) for view in batch]
    assert [view.box[1::2] for view in views] == [(0, 96), (34, 130), (69, 165), (104, 200)]
    assert {view.tile_size for view in views} == {(96, 96)}
    assert {view.size for view in views} == {(144, 144)}


@pytest.mark.parametrize(
    ("height", "width", "length"), [(24, 5000, 96), (23, 5000, 400), (2, 65535, 4608), (9, 9, 9)]
)
def test_thin_images_take_long_tiles(height: int, width: int, length: int) -> None:
    assert {x1 - x0 for _, x0, _, x1 in lay_tiles((height, width), OWN)} == {length}
    assert {y1 - y0 for y0, _, y1, _ in lay_tiles((width, height), OWN)} == {length}
    resized = replace(OWN, short_side=800, enlarge=1.0)
    assert lay_tiles((2, 96), resized)[0] == (0, 0, 2, 96)


def test_views_are_cut_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[tuple[int, int]] = []

    def counted(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        cut.append(size)
        return resize(image, size)

    monkeypatch.setattr(views_module, "resize", counted)
    rng = np.random.default_rng(0)
    images = [
        read_tiled(rng.integers(0, 256, (*size, 3), np.uint8), OWN)
        for size in ((96, 200), (40, 90))
    ]
    seen: list[list[tuple[int, tuple[int, int]]]] = []
    counts: list[int] = []
    for batch in view_batches(images, OWN, pixels=2 * 144 * 144):
        seen.append([(view.image, view.size) for view in batch])
        counts.append(len(cut))
    assert seen == [[(1, (60, 135))], [(0, (144, 144))] * 2, [(0, (144, 144))] * 2]
    assert counts == [1, 3, 5]


@st.composite
def requests(draw: st.DrawFn) -> tuple[tuple[int, int], int, int]:
    tile = draw(st.integers(1, 200))
    overlap = draw(st.integers(0, tile - 1))
    # At most some dozen steps, so that a tile that barely advances does not make a million boxes.
    longest = tile + 12 * (tile - overlap)
    return (draw(st.integers(1, longest)), draw(st.integers(1, longest))), tile, overlap


@given(requests())
def test_equal_tiles_cover_every_pixel_evenly_and_none_could_be_spared(
    request_: tuple[tuple[int, int], int, int],
) -> None:
    (height, width), tile, overlap = request_
    boxes = tile_boxes((height, width), tile, overlap)
    covered = np.zeros((height, width), bool)
    for y0, x0, y1, x1 in boxes:
        assert 0 <= y0 < y1 <= height
        assert 0 <= x0 < x1 <= width
        assert (y1 - y0, x1 - x0) == (min(tile, height), min(tile, width))
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    assert len(set(boxes)) == len(boxes)
    for axis, length in enumerate((height, width)):
        starts = sorted({box[axis] for box in boxes})
        if len(starts) > 1:
            steps = np.diff(starts)
            assert steps.max() <= tile - overlap
            assert steps.max() - steps.min() <= 1
            assert tile + (len(starts) - 2) * (tile - overlap) < length  # of one tile less


@given(st.integers(96, 700), st.integers(96, 700), st.sampled_from([16, 32, 48, 80]))
def test_tiles_that_share_features_lie_whole_cells_apart(
    height: int, width: int, overlap: int
) -> None:
    rule = replace(OWN, tile_overlap=overlap, share_from=2)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = read_tiled(noise, rule)
    seen: list[Box] = []
    for batch in view_batches([image], rule, cell=8):
        seen += [view.box for view in batch]
        if len(image.tiles) > 1 and batch[0].region is not None:
            y0, x0, _, _ = batch[0].region
            assert 1 < len(batch) <= BATCH_PIXELS // 144**2
            assert {view.region for view in batch} == {batch[0].region}
            assert {(y - y0) * 3 // 2 % 8 for y, _, _, _ in seen[-len(batch) :]} == {0}
            assert {(x - x0) * 3 // 2 % 8 for _, x, _, _ in seen[-len(batch) :]} == {0}
    assert sorted(seen) == sorted(image.tiles)


@pytest.mark.parametrize("streams", [1, 2, 16])
def test_tiles_of_an_image_share_features_in_squares(streams: int) -> None:
    rule = replace(OWN, tile_overlap=64, share_from=2)
    image = np.random.default_rng(0).integers(0, 256, (256, 261, 3), np.uint8)
    image[:96, :96] = image[64:160, 64:160] = 7  # tiles of one colour are one view, of their own
    image[160:, 165:] = 5
    batches = list(view_batches([read_tiled(image, rule)], rule, streams, cell=8))
    found = [(len(views), views[0].region) for views in batches]
    assert found == [
        (7, (0, 0, 160, 160)), (9, (0, 96, 160, 256)), (3, (0, 165, 160, 261)),
        (9, (96, 0, 256, 160)), (9, (96, 96, 256, 256)), (2, (96, 165, 224, 261)), (2, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "rule",
    [
        Preprocessing(short_side=100_000, long_side=1_000_000),
        Preprocessing(short_side=100_000, long_side=None),
        Preprocessing(short_side=1, long_side=1, multiple=100_000),
        Preprocessing(short_side=None, long_side=None, enlarge=100),
    ],
    ids=["both sides", "short side", "canvas", "enlarged"],
)
def test_an_image_is_not_enlarged_without_bounds(rule: Preprocessing) -> None:
    image = np.zeros((40, 56, 3), np.uint8)
    with pytest.raises(ImageError, match="the image: the model would enlarge 56x40 pixels to "):
        read_tiled(image, rule)
