"""From images and annotations to the batches of a step."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import torch

from panodetr.boxes import xyxy_to_cxcywh
from panodetr.data.loader import BatchReader
from panodetr.images.preprocess import normalize, pad
from panodetr.objective.targets import Batch, Targets

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import NDArray

    from panodetr.data.dataset import Dataset
    from panodetr.data.loader import Example
    from panodetr.images.preprocess import Preprocessing
    from panodetr.training.config import TrainConfig


def read_steps(
    config: TrainConfig,
    data: Dataset,
    start: int,
    note: Callable[[str], None],
    *,
    rank: int = 0,
    ranks: int = 1,
) -> Generator[list[Batch], None, None]:
    """What each step from `start` on learns from: this process's share, in parts.

    A step's images depend on its number alone. Close the generator to end its readers.

    Args:
        config: the run.
        data: the images.
        start: the first step, counted from 0.
        note: called with a line for every image that is skipped.
        rank: which process this is.
        ranks: of how many.

    Raises:
        DataError: too many images cannot be read.
    """
    reader = BatchReader(
        data,
        config.augmentation,
        seed=config.seed,
        batch_size=config.batch_size,
        sampling=config.sampling,
        workers=config.workers,
        bad_images=config.bad_images,
        with_masks=config.learns_from_masks,
        on_bad=note,
    )
    index_of = {category.id: category.index for category in config.spec.categories}
    classes = np.array([index_of[category.id] for category in data.categories])
    size = config.batch_size // ranks // config.accumulate
    with closing(reader.batches(start, config.steps, rank, ranks)) as shares:
        for share in shares:
            yield [
                collate(share[first : first + size], classes, config.spec.preprocessing)
                for first in range(0, len(share), size)
            ]


def collate(examples: Sequence[Example], classes: NDArray[np.int64], rule: Preprocessing) -> Batch:
    """Normalise, pad and stack images (h, w, 3) and their targets.

    Args:
        examples: the images.
        classes: the model's index of each of the data's categories.
        rule: how images are fed.
    """
    pixels, padding = pad([normalize(e.image, rule.mean, rule.std) for e in examples])
    index_map = np.zeros(padding.shape, dtype=np.int16)
    boxes: list[NDArray[np.float32]] = []
    for place, example in zip(index_map, examples, strict=True):
        height, width = example.image.shape[:2]
        if example.target.ids is not None:
            place[:height, :width] = _places(example.target.segment_ids, example.target.ids)
        size = np.array([width, height, width, height], dtype=np.float32)
        boxes.append(example.target.boxes / size)
    with_masks = all(example.target.ids is not None for example in examples)
    found = classes[np.concatenate([example.target.classes for example in examples])]
    return Batch(
        pixels=torch.from_numpy(pixels),
        padding=torch.from_numpy(padding) if padding.any() else None,
        targets=Targets(
            classes=torch.from_numpy(found),
            boxes=xyxy_to_cxcywh(torch.from_numpy(np.concatenate(boxes))),
            counts=tuple(len(example.target.classes) for example in examples),
            index_map=torch.from_numpy(index_map) if with_masks else None,
        ),
        image_ids=tuple(example.image_id for example in examples),
    )


def _places(segment_ids: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.int16]:
    """(h, w), 1 + the place of each pixel's object among the segments, 0 where there is none."""
    if segment_ids.size == 0:
        return np.zeros(ids.shape, dtype=np.int16)
    place = np.searchsorted(segment_ids, ids).clip(max=segment_ids.size - 1)
    found = segment_ids[place] == ids
    return np.where(found, place + 1, 0).astype(np.int16)
