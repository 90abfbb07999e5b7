"""transformers' losses of its labels, by our criterion.

K: objects of the batch, L: decoder layers, B: images, Q: queries, C: classes, H, W: masks' size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from panodetr.errors import DataError
from panodetr.objective.config import CriterionConfig, MatchCosts
from panodetr.objective.criterion import Matches, detection_losses, mask_losses, match, weighted_sum
from panodetr.objective.targets import Targets, Totals, count_totals

_NAMES = {
    "label": "loss_ce",
    "l1": "loss_bbox",
    "giou": "loss_giou",
    "cardinality": "cardinality_error",
    "focal": "loss_mask",
    "dice": "loss_dice",
}
"""Ours and theirs, in their order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelTargets(Targets):
    """Targets with masks that may overlap, as those of COCO's objects do.

    Attributes:
        index_map: (K, H, W), each object's own mask, which may have values between 0 and 1 if
            it is of floating point; None if there are none.
    """

    def masks(self, objects: Tensor) -> Tensor:
        """Masks (N, H, W) of the objects (N,), from 0.0 to 1.0."""
        assert self.index_map is not None
        return self.index_map[objects].to(self.boxes.dtype)


def read_labels(
    labels: Sequence[Mapping[str, Any]],
    images: int,
    classes: int,
    like: Tensor,
    *,
    with_masks: bool,
) -> LabelTargets:
    """Put the labels of a batch one after the other.

    Args:
        labels: one per image: `class_labels` (N,), `boxes` (N, 4), cxcywh in fractions, and `masks`
            (N, H, W), from 0 to 1. Whatever else the processor puts in is left alone.
        images: of the batch.
        classes: of the model.
        like: has the boxes' device and type.
        with_masks: whether masks are needed.

    Raises:
        DataError: there is another number of labels, or one lacks something or is out of range.
    """
    if len(labels) != images:
        raise DataError(
            f"{len(labels)} labels were given for {images} images; expected one per image"
        )
    needed = ("class_labels", "boxes", *(("masks",) if with_masks else ()))
    columns: dict[str, list[Tensor]] = {name: [] for name in needed}
    for number, one in enumerate(labels):
        for name, column in columns.items():
            if name not in one:
                raise DataError(f"labels of image {number} have no {name!r}; expected {needed}")
            column.append(torch.as_tensor(one[name], device=like.device))
        counts = [len(column[-1]) for column in columns.values()]
        if len(set(counts)) > 1:
            found = ", ".join(f"{count} {name}" for name, count in zip(needed, counts, strict=True))
            raise DataError(f"labels of image {number} have {found}; expected as many of each")
    kinds = torch.cat(columns["class_labels"]).long()  # K
    if len(kinds) and not 0 <= int(kinds.min()) <= int(kinds.max()) < classes:
        raise DataError(
            f"class_labels go from {int(kinds.min())} to {int(kinds.max())}; the model has "
            f"{classes} classes, so expected 0 to {classes - 1}"
        )
    boxes = torch.cat(columns["boxes"]).to(like.dtype).reshape(-1, 4)  # K, 4
    if len(boxes) and not bool((boxes[:, 2:] >= 0).all()):
        raise DataError("a label's box is not finite or has a negative size; expected cxcywh")
    return LabelTargets(
        classes=kinds,
        boxes=boxes,
        counts=tuple(len(one) for one in columns["class_labels"]),
        index_map=_stack(columns["masks"]) if with_masks else None,
    )


def _stack(masks: Sequence[Tensor]) -> Tensor:
    """Put masks (N, h, w) of several sizes into the corner of the greatest: (K, H, W)."""
    if not all(bool(((mask >= 0) & (mask <= 1)).all()) for mask in masks):
        raise DataError("a label's mask has values outside 0 to 1; expected (N, H, W) of these")
    height, width = (max(each.shape[axis] for each in masks) for axis in (1, 2))
    return torch.cat([F.pad(m, (0, width - m.shape[2], 0, height - m.shape[1])) for m in masks])


def label_losses(
    config: Any,
    logits: Tensor,
    boxes: Tensor,
    targets: LabelTargets,
    make_masks: Callable[[Matches], Tensor] | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Match, and sum the losses with the weights of a configuration.

    Padding counts in the mask losses, as in transformers and the original. Between processes the
    number of objects is averaged, as in the original.

    Args:
        config: transformers' or ours.
        logits: (L, B, Q, C + 1), the last layer last.
        boxes: (L, B, Q, 4), cxcywh in fractions.
        targets: from `read_labels`.
        make_masks: gives mask logits (M, h, w) of M matched queries; None: none are learned.

    Returns:
        The total, and the losses by transformers' names: the last layer's, then those of earlier
        layers by their number.
    """
    criterion = CriterionConfig(
        costs=MatchCosts(label=config.class_cost, l1=config.bbox_cost, giou=config.giou_cost),
        l1=config.bbox_loss_coefficient,
        giou=config.giou_loss_coefficient,
        focal=config.mask_loss_coefficient,
        dice=config.dice_loss_coefficient,
        no_object=config.eos_coefficient,
        mask_padding=True,
    )
    totals = mean_totals(targets, logits.shape[2], criterion.no_object)
    matches = match(logits, boxes, targets, criterion.costs)
    losses = detection_losses(logits, boxes, targets, matches, criterion, totals)  # each L
    last = len(logits) - 1
    if make_masks is not None:
        own = matches.where(matches.layer == last)
        masks = make_masks(own).to(logits.dtype)  # M, h, w
        losses |= mask_losses(masks, targets, own.object, None, criterion, totals.objects)
    total = weighted_sum(losses, criterion)
    found = (logits.argmax(-1) != logits.shape[-1] - 1).sum(-1)  # L, B
    counts = torch.tensor(targets.counts, device=logits.device)  # B
    losses["cardinality"] = (found - counts).abs().float().mean(1)  # L
    layered = [name for name in _NAMES if losses.get(name, logits[0, 0, 0, 0]).dim()]
    return total, {
        _NAMES[name]: losses[name][last] if name in layered else losses[name]
        for name in _NAMES
        if name in losses
    } | {f"{_NAMES[name]}_{n}": losses[name][n] for n in range(last) for name in layered}


def mean_totals(targets: Targets, queries: int, no_object: float) -> Totals:
    """What losses are divided by; the objects are a mean over the processes that train together."""
    totals = count_totals(targets.counts, queries, no_object)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        count = torch.tensor(float(sum(targets.counts)), device=targets.boxes.device)
        torch.distributed.all_reduce(count)
        mean = count.item() / torch.distributed.get_world_size()
        totals = replace(totals, objects=max(1.0, mean))
    return totals
