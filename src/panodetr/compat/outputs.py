"""What the models give out, under transformers' names, and how boxes and segments are read from it.

The rules are those of transformers 5: other thresholds, another order of steps and other losses of
pixels than the paper's, which `panodetr.results.panoptic` follows. On a padded batch the masks are
first cut to the image; transformers stretches the padded canvas over the image instead.

B: images, Q: queries, C: classes, D: channels, N: masks, h, w: a mask's size, H, W: the result's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from panodetr.boxes import cxcywh_to_xyxy
from panodetr.errors import UsageError

Sizes = Tensor | Sequence[Sequence[int] | Tensor]
"""Height and width of each image."""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """How the images of a padded batch lie in it, each in the upper left corner.

    Attributes:
        size: height and width of the batch.
        images: height and width of each image.
    """

    size: tuple[int, int]
    images: tuple[tuple[int, int], ...]


_VALUES = (
    "logits",
    "pred_boxes",
    "pred_masks",
    "auxiliary_outputs",
    "last_hidden_state",
    "encoder_last_hidden_state",
)
"""In the order of transformers, which code that reads them by their place relies on."""


@dataclass(kw_only=True, eq=False)
class DetrObjectDetectionOutput:
    """Classes and boxes of a batch: by attribute, by name, or by place among those not None.

    Attributes:
        logits: (B, Q, C + 1), the last being "no object".
        pred_boxes: (B, Q, 4), cxcywh in fractions of the unpadded image.
        auxiliary_outputs: `logits` and `pred_boxes` of every decoder layer but the last, where they
            were asked for.
        last_hidden_state: (B, Q, D), the decoder's output.
        encoder_last_hidden_state: (B, h' w', D), the encoder's output.
        canvas: how the images lie in the batch, where it was padded. Not one of the values.
    """

    logits: Tensor
    pred_boxes: Tensor
    auxiliary_outputs: list[dict[str, Tensor]] | None = None
    last_hidden_state: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    canvas: Canvas | None = None

    def keys(self) -> tuple[str, ...]:
        """Name the values that there are, in order."""
        return tuple(name for name in _VALUES if getattr(self, name, None) is not None)

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the values."""
        return iter(self.keys())

    def __len__(self) -> int:
        """Count the values."""
        return len(self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        """Give a value by its name or its place, or several by a slice.

        Raises:
            KeyError: there is none of this name.
        """
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def to_tuple(self) -> tuple[Any, ...]:
        """Give the values that there are, in order."""
        return tuple(getattr(self, name) for name in self.keys())


@dataclass(kw_only=True, eq=False)
class DetrSegmentationOutput(DetrObjectDetectionOutput):
    """Classes, boxes and masks of a batch.

    Attributes:
        pred_masks: (B, Q, h, w) logits over the whole canvas.
    """

    pred_masks: Tensor


class BoxOutputs(Protocol):
    """Outputs with boxes, ours or another library's."""

    logits: Tensor
    pred_boxes: Tensor


class MaskOutputs(BoxOutputs, Protocol):
    """Outputs with boxes and masks."""

    pred_masks: Tensor


def sizes_of(sizes: Sizes, count: int) -> list[tuple[int, int]]:
    """Read heights and widths, one for each of `count` images.

    Raises:
        UsageError: there are more or fewer.
    """
    pairs = [(int(height), int(width)) for height, width in sizes]
    if len(pairs) != count:
        raise UsageError(f"{len(pairs)} sizes were given for {count} images; expected one an image")
    return pairs


def boxes_in(outputs: BoxOutputs, sizes: Sizes | None) -> list[dict[str, Tensor]]:
    """Give each image's queries their best real class; boxes in pixels if sizes are known.

    Returns:
        `scores` (Q,), `labels` (Q,) and `boxes` (Q, 4), x0, y0, x1, y1, of each image.
    """
    scores, labels = outputs.logits.softmax(-1)[..., :-1].max(-1)  # B, Q
    boxes = cxcywh_to_xyxy(outputs.pred_boxes)  # B, Q, 4
    if sizes is not None:
        scale = [[w, h, w, h] for h, w in sizes_of(sizes, len(boxes))]
        boxes = boxes * boxes.new_tensor(scale)[:, None]
    names = ("scores", "labels", "boxes")
    return [dict(zip(names, one, strict=True)) for one in zip(scores, labels, boxes, strict=True)]


def mask_sizes(outputs: MaskOutputs, sizes: Sizes | None) -> list[tuple[int, int]]:
    """Read the height and width of each image's masks; None takes the masks' own."""
    count = len(outputs.logits)
    if sizes is not None:
        return sizes_of(sizes, count)
    own = [masks_of(outputs, image).shape for image in range(count)]
    return [(height, width) for _, height, width in own]


def masks_of(outputs: MaskOutputs, image: int) -> Tensor:
    """Give one image's mask logits (Q, h, w) over the image alone, without padding."""
    masks = outputs.pred_masks[image]
    if not isinstance(outputs, DetrSegmentationOutput) or outputs.canvas is None:
        return masks
    # A mask has the stride of the backbone's first stage, and as many rows as cover the image.
    rows, columns = (
        -(-length // round(whole / side))
        for length, whole, side in zip(
            outputs.canvas.images[image], outputs.canvas.size, masks.shape[1:], strict=True
        )
    )
    return masks[:, :rows, :columns]


def confident(outputs: MaskOutputs, image: int, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Give one image's queries that score above a threshold and are not "no object".

    Returns:
        Scores (N,), class indices (N,), and mask logits (N, h, w) without padding.
    """
    scores, labels = outputs.logits[image].softmax(-1).max(-1)  # Q
    kept = (labels != outputs.logits.shape[-1] - 1) & (scores > threshold)
    return scores[kept], labels[kept], masks_of(outputs, image)[kept]


def number_segments(
    scores: Sequence[float], labels: Sequence[int], stays: Sequence[bool], fused: Collection[int]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Give an id to each of N queries that stays, and 0 to the others; say what ids stand for."""
    ids: list[int] = []
    segments: list[dict[str, Any]] = []
    first: dict[int, int] = {}
    current = 0
    for score, label, stay in zip(scores, labels, stays, strict=True):
        if stay:
            # After a class met again, counting goes on from its id: as there, ids can come twice.
            current = first.get(label, current + 1)
            fuse = label in fused
            if fuse:
                first[label] = current
            segments.append(
                {"id": current, "label_id": label, "was_fused": fuse, "score": round(score, 6)}
            )
        ids.append(current if stay else 0)
    return ids, segments


def run_lengths(segmentation: Tensor) -> list[list[int]]:
    """Encode each id's pixels, along the rows, as starts, counted from 1, and lengths."""
    flat = segmentation.flatten()
    encoded: list[list[int]] = []
    for value in flat.unique():
        inside = F.pad((flat == value).int(), (1, 1))
        edges = (inside.diff() != 0).nonzero().flatten() + 1
        starts, ends = edges[0::2], edges[1::2]
        encoded.append(torch.stack([starts, ends - starts], dim=1).flatten().tolist())
    return encoded


def grown(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge maps (N, h, w) to a height and width."""
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
