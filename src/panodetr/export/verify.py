"""Is what was exported still the model? Compared before a file is kept.

Letters: B images, Q queries, N masks, h and w a mask's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from panodetr.errors import CheckpointError
from panodetr.results.overlaps import paired_box_iou, paired_mask_iou
from panodetr.results.panoptic import keep_queries

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.runtimes.base import Runtime

TOLERANCE = 1e-4
"""Largest difference of boxes; of logits and masks, times their largest value where that is over
1."""

SIZES = (
    (1, 128, 160, 128, 160),
    (2, 150, 97, 112, 64),
    (3, 64, 64, 48, 42),
    (1, 224, 320, 224, 320),
    (3, 140, 171, 56, 171),
)
"""Images, height and width, and the row and column that padding of the last image begins at: even
and odd, one and several, none of them the recorded one. In the last one padding begins at a row
that the feature map samples: 2/5 of 140 is 56, or just below in another order of operations."""

LEAST_AGREEMENT = 0.5
"""Less of the same classes, boxes or masks than this means that quantising went wrong."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The largest differences that were found, each relative to its tolerance's measure."""

    logits: float
    boxes: float
    masks: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How two models answer for the queries that the first one keeps.

    Attributes:
        queries: how many those are.
        same_class: share of them for which the other's likeliest class is the same.
        box_iou: mean overlap of their boxes.
        mask_iou: mean overlap of their masks; 1 for a model without masks.
    """

    queries: int
    same_class: float
    box_iou: float
    mask_iou: float


def check_equal(model: Runtime, exported: Runtime, *, masks: bool) -> Difference:
    """Compare on noise at several sizes and numbers of images, with padding and without.

    Raises:
        CheckpointError: they differ by more than rounding; the message has the numbers.
    """
    worst = {"logits": 0.0, "boxes": 0.0, "masks": 0.0}
    for size, name, expected, got in _answers(model, exported, masks=masks):
        scale = 1.0 if name == "boxes" else max(1.0, float(np.abs(expected).max()))
        difference = float(np.abs(expected - got).max()) / scale
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"the exported model is not the model: {name} differ by {difference:.1e} of "
                f"{scale:.1f} at {size}, allowed {TOLERANCE:.0e}; "
                "nothing was written: please report this with the model"
            )
        worst[name] = max(worst[name], difference)
    return Difference(**worst)


def check_sound(model: Runtime, exported: Runtime, *, masks: bool) -> None:
    """Make sure that a quantised model answers every size with numbers, and as many as the model.

    Raises:
        CheckpointError: it does not.
    """
    for size, name, _, got in _answers(model, exported, masks=masks):
        if not np.isfinite(got).all():
            raise CheckpointError(
                f"the int8 model gives {name} that are no numbers at {size}; nothing was written: "
                "give more images, or leave out --int8"
            )


def _answers(
    model: Runtime, exported: Runtime, *, masks: bool
) -> Generator[tuple[str, str, NDArray[np.float32], NDArray[np.float32]]]:
    """Ask both at every size: the size, what the array is, the model's and the other's.

    Raises:
        CheckpointError: arrays have other shapes.
    """
    for seed, (count, height, width, *edge) in enumerate(SIZES):
        images, padding = _noise(seed, count, height, width, edge)
        a, b = model.detect(images, padding), exported.detect(images, padding)
        pairs = {"logits": (a.logits, b.logits), "boxes": (a.boxes, b.boxes)}
        if masks:
            chosen = np.array([0, 0, count - 1]), np.arange(3) % a.logits.shape[1]
            pairs["masks"] = (a.masks(*chosen), b.masks(*chosen))
            none = np.array([], np.intp)
            pairs["no masks"] = (a.masks(none, none), b.masks(none, none))
        size = f"{count}x{height}x{width}"
        for name, (expected, got) in pairs.items():
            if got.shape != expected.shape:
                raise CheckpointError(
                    f"the exported model is not the model: {name} are {got.shape}, not "
                    f"{expected.shape}, at {size}; nothing was written: please report this"
                )
            if expected.size:
                yield size, name, expected, got


def measure_agreement(
    model: Runtime, exported: Runtime, spec: ModelSpec, batches: Sequence[NDArray[np.uint8]]
) -> Agreement:
    """Compare the answers to images (B, H, W, 3) for the queries that the model would keep.

    Raises:
        CheckpointError: they have little to do with each other.
    """
    same: list[float] = []
    boxes: list[float] = []
    masks: list[float] = []
    for batch in batches:
        a, b = model.detect(batch, None), exported.detect(batch, None)
        for number, logits in enumerate(a.logits):
            queries, _, classes = keep_queries(logits, spec.threshold)
            same += (b.logits[number, queries].argmax(-1) == classes).astype(float).tolist()
            boxes += paired_box_iou(a.boxes[number, queries], b.boxes[number, queries]).tolist()
            if spec.architecture.masks:
                image = np.full_like(queries, number)
                pair = a.masks(image, queries), b.masks(image, queries)
                masks += paired_mask_iou(*pair).tolist()
    if not same:
        raise CheckpointError(
            "the model finds nothing in the images to calibrate with, so int8 cannot be judged; "
            "give images of what the model knows"
        )
    found = Agreement(
        queries=len(same),
        same_class=float(np.mean(same)),
        box_iou=float(np.mean(boxes)),
        mask_iou=float(np.mean(masks)) if masks else 1.0,
    )
    if min(found.same_class, found.box_iou, found.mask_iou) < LEAST_AGREEMENT:
        raise CheckpointError(
            f"the int8 model is not the model: of {found.queries} segments {found.same_class:.0%} "
            f"have the same class, boxes overlap by {found.box_iou:.0%} and masks by "
            f"{found.mask_iou:.0%}; nothing was written: give more images, or leave out --int8"
        )
    return found


def _noise(
    seed: int, count: int, height: int, width: int, edge: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Images of coarse noise; the last one is padded from a row and a column on."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, -(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    padding = np.zeros((count, height, width), np.bool_)
    padding[-1, edge[0] :] = True
    padding[-1, :, edge[1] :] = True
    return np.ascontiguousarray(images), padding
