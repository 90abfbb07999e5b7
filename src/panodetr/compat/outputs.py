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


def boxes_in(outputs: BoxOutputs, sizes: Sizes | None) -> Iterator[dict[str, Tensor]]:
    """Give each image's queries their best real class; boxes in pixels if sizes are known.

    Yields:
        `scores` (Q,), `labels` (Q,) and `boxes` (Q, 4), x0, y0, x1, y1, of each image.
    """
    scores, labels = outputs.logits.softmax(-1)[..., :-1].max(-1)  # B, Q
    boxes = cxcywh_to_xyxy(outputs.pred_boxes)  # B, Q, 4
    if sizes is not None:
        scale = [[w, h, w, h] for h, w in sizes_of(sizes, len(boxes))]
        boxes = boxes * boxes.new_tensor(scale)[:, None]
    for score, label, box in zip(scores, labels, boxes, strict=True):
        yield {"scores": score, "labels": label, "boxes": box}


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


def class_maps(outputs: MaskOutputs, image: int, size: tuple[int, int] | None) -> Tensor:
    """Give each class (C, H, W) its value at each pixel: over all queries, class times mask."""
    classes = outputs.logits[image].softmax(-1)[:, :-1]  # Q, C
    maps = torch.einsum("qc,qhw->chw", classes, masks_of(outputs, image).sigmoid())
    return maps if size is None else _grown(maps, size)


def find_segments(
    outputs: MaskOutputs,
    image: int,
    *,
    threshold: float,
    mask_threshold: float,
    overlap: float,
    fused: Collection[int],
    size: tuple[int, int] | None,
) -> dict[str, Any]:
    """Give every pixel to the query of the highest score times mask, then drop some queries.

    This is `DetrImageProcessor.post_process_panoptic_segmentation` for one image.
    """
    scores, labels = outputs.logits[image].softmax(-1).max(-1)  # Q
    kept = (labels != outputs.logits.shape[-1] - 1) & (scores > threshold)
    probabilities = masks_of(outputs, image)[kept].sigmoid()  # N, h, w
    if not len(probabilities):
        height, width = probabilities.shape[1:] if size is None else size
        return {"segmentation": torch.full((height, width), -1.0), "segments_info": []}
    if size is not None:
        probabilities = _grown(probabilities, size)
    weighted = probabilities * scores[kept, None, None]  # N, H, W
    owner = weighted.argmax(0)  # H, W
    got = owner.flatten().bincount(minlength=len(weighted))
    claimed = (weighted >= mask_threshold).flatten(1).sum(1)
    # In float32, as there: four fifths are more than an overlap of 0.8.
    dropped = (got == 0) | (claimed == 0) | ~((got / claimed).double() > overlap)
    new_id = torch.zeros(len(weighted), dtype=torch.int32, device=owner.device)
    segments: list[dict[str, Any]] = []
    first: dict[int, int] = {}
    current = 0
    for query, (score, label) in enumerate(
        zip(scores[kept].tolist(), labels[kept].tolist(), strict=True)
    ):
        if dropped[query]:
            continue
        # After a class met again, counting goes on from its id: as there, ids can come twice.
        current = first.get(label, current + 1)
        if label in fused:
            first[label] = current
        new_id[query] = current
        segments.append(
            {
                "id": current,
                "label_id": label,
                "was_fused": label in fused,
                "score": round(score, 6),
            }
        )
    return {"segmentation": new_id[owner], "segments_info": segments}


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


def _grown(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
