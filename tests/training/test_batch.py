from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.testing import assert_close

from panodetr.boxes import cxcywh_to_xyxy
from panodetr.data.panoptic import TruthSegment
from panodetr.data.targets import Target, masks, panoptic_target
from panodetr.images.preprocess import Preprocessing
from panodetr.results.types import Category
from panodetr.training.batch import collate

CATEGORIES = tuple(
    Category(index=i, id=i + 1, name=str(i), is_thing=True, color=(0, 0, 0)) for i in range(2)
)
RULE = Preprocessing(short_side=None, long_side=None)


def crop(height: int, width: int, *ids: int) -> tuple[NDArray[np.uint8], Target]:
    """A photo of one grey with an object in each row of five pixels or more; id 9 is a crowd."""
    map_ = np.zeros((height, width), np.int32)
    for row, value in enumerate(ids):
        map_[2 * row : 2 * row + 2, row:] = value
    segments = [
        TruthSegment(id=i, category_id=1 + i % 2, area=1, is_crowd=i == 9) for i in set(ids)
    ]
    return np.full((height, width, 3), 124, np.uint8), panoptic_target(map_, segments, CATEGORIES)


def test_photos_and_objects_become_one_padded_batch() -> None:
    crops = [crop(12, 10, 300, 9, 70_000), crop(6, 16), crop(8, 8, 5)]
    photos, targets = zip(*crops, strict=True)
    batch = collate(photos, targets, RULE)
    assert batch.pixels.shape == (3, 3, 12, 16)
    assert batch.padding is not None
    assert (~batch.padding).sum((1, 2)).tolist() == [120, 96, 64]
    assert batch.pixels.abs().amax(1)[batch.padding].max() == 0
    assert batch.targets.counts == (2, 0, 1)
    assert batch.targets.classes.tolist() == [0, 0, 1]


def test_masks_and_boxes_are_those_of_the_crops() -> None:
    crops = [crop(12, 10, 300, 9, 70_000), crop(8, 8, 5)]
    photos, targets = zip(*crops, strict=True)
    batch = collate(photos, targets, RULE).targets
    found = batch.masks(torch.arange(3))
    expected = [
        np.pad(m, ((0, 0), (0, 12 - m.shape[1]), (0, 10 - m.shape[2]))) for m in map(masks, targets)
    ]
    np.testing.assert_array_equal(found.numpy(), np.concatenate(expected))
    sizes = torch.tensor([[10, 12, 10, 12]] * 2 + [[8, 8, 8, 8]])
    corners = cxcywh_to_xyxy(batch.boxes) * sizes
    assert_close(corners, torch.from_numpy(np.concatenate([t.boxes for t in targets])))


def test_equal_sizes_have_no_padding_and_objects_may_be_none() -> None:
    (photo, target), (other, others) = crop(6, 6), crop(6, 6)
    batch = collate([photo, other], [target, others], RULE)
    assert batch.padding is None
    assert batch.targets.boxes.shape == (0, 4)
    assert batch.targets.masks(torch.zeros(0, dtype=torch.int64)).shape == (0, 6, 6)
    assert not batch.targets.index_map.any()


def test_a_batch_moves_whole() -> None:
    (photo, target), (other, others) = crop(6, 6, 5), crop(6, 8)
    moved = collate([photo, other], [target, others], RULE).to(torch.device("meta"))
    tensors = (moved.pixels, moved.padding, moved.targets.classes, moved.targets.boxes)
    assert {t.device.type for t in (*tensors, moved.targets.index_map) if t is not None} == {"meta"}
    assert moved.targets.counts == (1, 0)
