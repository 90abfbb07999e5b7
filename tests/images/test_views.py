from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from panodetr.images import views as views_module
from panodetr.images.preprocess import Preprocessing
from panodetr.images.resize import resize
from panodetr.images.views import processed_size, read_tiled, view_batches

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
    image = np.zeros((96, 200, 3), np.uint8)
    views = [view for batch in view_batches([read_tiled(image, OWN)], OWN) for view in batch]
    assert [view.box[1::2] for view in views] == [(0, 96), (34, 130), (69, 165), (104, 200)]
    assert {view.tile_size for view in views} == {(96, 96)}
    assert {view.size for view in views} == {(144, 144)}


def test_views_are_cut_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[tuple[int, int]] = []

    def counted(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        cut.append(size)
        return resize(image, size)

    monkeypatch.setattr(views_module, "resize", counted)
    monkeypatch.setattr(views_module, "BATCH_PIXELS", 2 * 144 * 144)
    images = [read_tiled(np.zeros((*size, 3), np.uint8), OWN) for size in ((96, 200), (40, 90))]
    seen: list[list[tuple[int, tuple[int, int]]]] = []
    counts: list[int] = []
    for batch in view_batches(images, OWN):
        seen.append([(view.image, view.size) for view in batch])
        counts.append(len(cut))
    assert seen == [[(1, (60, 135))], [(0, (144, 144))] * 2, [(0, (144, 144))] * 2]
    assert counts == [1, 3, 5]
