from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.data.whole import masks, panoptic_target
from torch.testing import assert_close

from panodetr.boxes import cxcywh_to_xyxy
from panodetr.data.augment import CropAugmentation
from panodetr.data.dataset import Dataset, open_data
from panodetr.data.loader import Example
from panodetr.data.samples import GroundTruthSegment
from panodetr.images.preprocess import Preprocessing
from panodetr.results.types import Category
from panodetr.training.config import TrainConfig
from panodetr.training.step import collate, collate_step, read_steps

from .conftest import write_instances

CATEGORIES = tuple(
    Category(index=i, id=i + 1, name=str(i), is_thing=True, color=(0, 0, 0)) for i in range(2)
)
RULE = Preprocessing(short_side=None, long_side=None)
SAME = np.arange(2)


def example(height: int, width: int, *ids: int, image_id: int = 1) -> Example:
    """An image of one grey with an object in each row of five pixels or more; id 9 is a crowd."""
    map_ = np.zeros((height, width), np.int32)
    for row, value in enumerate(ids):
        map_[2 * row : 2 * row + 2, row:] = value
    segments = [
        GroundTruthSegment(id=i, category_id=1 + i % 2, area=1, is_crowd=i == 9) for i in set(ids)
    ]
    target = panoptic_target(map_, segments, CATEGORIES)
    return Example(np.full((height, width, 3), 124, np.uint8), target, image_id)


def test_images_and_objects_become_one_padded_batch() -> None:
    examples = [example(12, 10, 300, 9, 70_000), example(6, 16), example(8, 8, 5, image_id=7)]
    batch = collate(examples, SAME, RULE)
    assert batch.pixels.shape == (3, 3, 12, 16)
    assert batch.padding is not None
    assert (~batch.padding).sum((1, 2)).tolist() == [120, 96, 64]
    assert batch.pixels.abs().amax(1)[batch.padding].max() == 0
    assert batch.targets.counts == (2, 0, 1)
    assert batch.targets.classes.tolist() == [0, 0, 1]
    assert batch.image_ids == (1, 1, 7)
    named = collate([example(8, 8, 5, 4)], np.array([17, 90]), RULE)  # as the model numbers them
    assert named.targets.classes.tolist() == [17, 90]


def test_masks_and_boxes_are_those_of_the_images() -> None:
    examples = [example(12, 10, 300, 9, 70_000), example(8, 8, 5)]
    batch = collate(examples, SAME, RULE).targets
    found = batch.masks(torch.arange(3))
    each = [masks(e.target) for e in examples]
    expected = [np.pad(m, ((0, 0), (0, 12 - m.shape[1]), (0, 10 - m.shape[2]))) for m in each]
    np.testing.assert_array_equal(found.numpy(), np.concatenate(expected))
    sizes = torch.tensor([[10, 12, 10, 12]] * 2 + [[8, 8, 8, 8]])
    corners = cxcywh_to_xyxy(batch.boxes) * sizes
    assert_close(corners, torch.from_numpy(np.concatenate([e.target.boxes for e in examples])))


def test_there_may_be_no_padding_no_objects_and_no_masks() -> None:
    batch = collate([example(6, 6), example(6, 6)], SAME, RULE)
    assert batch.padding is None
    assert batch.targets.boxes.shape == (0, 4)
    assert batch.targets.masks(torch.zeros(0, dtype=torch.int64)).shape == (0, 6, 6)
    assert batch.targets.index_map is not None
    assert not batch.targets.index_map.any()
    one = example(6, 6, 5)
    bare = one._replace(target=replace(one.target, ids=None))
    boxes = collate([bare], SAME, RULE).targets
    assert boxes.index_map is None
    assert_close(boxes.boxes, collate([one], SAME, RULE).targets.boxes)


def test_a_batch_moves_whole() -> None:
    moved = collate([example(6, 6, 5), example(6, 8)], SAME, RULE).to(torch.device("meta"))
    tensors = (moved.pixels, moved.padding, moved.targets.classes, moved.targets.boxes)
    assert {t.device.type for t in (*tensors, moved.targets.index_map) if t is not None} == {"meta"}
    assert moved.targets.counts == (1, 0)


def test_processes_and_parts_share_a_step(tiny_run: TrainConfig, discs: Dataset) -> None:
    config = replace(tiny_run, batch_size=8, accumulate=2, steps=2)
    read = [next(read_steps(config, discs, 1))]
    read += [next(read_steps(config, discs, 1, rank=r, ranks=2)) for r in range(2)]
    whole, *shares = (collate_step(config, discs, examples) for examples in read)
    assert [[len(part.pixels) for part in share] for share in (whole, *shares)] == [
        [4, 4],
        [2, 2],
        [2, 2],
    ]
    every = torch.cat([part.pixels for part in whole])
    for rank, share in enumerate(shares):
        assert torch.equal(torch.cat([part.pixels for part in share]), every[rank::2])


@pytest.fixture
def instances(discs: Dataset) -> Dataset:
    """The same images, each with an object of a box and a mask in its corner."""
    write_instances(discs, segmentation=[[0, 0, 4, 0, 4, 4, 0, 4]])
    return open_data(discs.folder, "train", format="coco-instances")


@pytest.mark.parametrize(
    ("masks", "weights", "wanted"),
    [
        (True, {"token_weight": 0.0}, True),
        (False, {"token_weight": 1.0}, True),
        (False, {"token_weight": 0.0, "attention_weight": 1.0}, True),
        (False, {"token_weight": 0.0}, False),
    ],
)
def test_masks_are_read_where_something_is_learned_from_them(
    tiny_run: TrainConfig,
    instances: Dataset,
    masks: bool,
    weights: dict[str, float],
    wanted: bool,
) -> None:
    shape = replace(tiny_run.spec.architecture, masks=masks)
    spec = replace(tiny_run.spec, architecture=shape)
    config = replace(tiny_run, spec=spec, augmentation=CropAugmentation(size=32), **weights)
    steps = read_steps(config, instances)
    parts = [part for step in steps for part in collate_step(config, instances, step)]
    assert all((part.targets.index_map is not None) is wanted for part in parts)
    # Without masks a box stays where its mask's corner is out of sight.
    seen = [count for part in parts for count in part.targets.counts]
    assert all(seen) is not wanted
