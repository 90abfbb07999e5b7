"""What a step minimises: the paper's losses, and those of the parts that only training has.

Letters: L decoder layers, B images, Q queries, D channels, G query groups, N masks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from panodetr.objective.auxiliary import attention_loss
from panodetr.objective.criterion import (
    Totals,
    count_totals,
    detection_losses,
    mask_losses,
    weighted_sum,
)
from panodetr.objective.denoising import denoising_loss
from panodetr.objective.matcher import match
from panodetr.training.batch import Targets

if TYPE_CHECKING:
    from torch import Tensor

    from panodetr.model.detr import Detr
    from panodetr.model.outputs import Encoded
    from panodetr.objective.auxiliary import AuxiliaryHeads
    from panodetr.objective.matcher import Matches
    from panodetr.training.batch import Batch
    from panodetr.training.config import TrainConfig


def compute_losses(
    model: Detr,
    scaffold: AuxiliaryHeads,
    batch: Batch,
    config: TrainConfig,
    *,
    with_masks: bool,
    totals: Totals | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The total to minimise, and its parts to log.

    Where a step is shared by several processes or worked through in parts, the totals of one add up
    to what the whole step loses.

    Args:
        model: the model.
        scaffold: what training adds to it.
        batch: images and objects.
        config: the run.
        with_masks: whether masks are learned in this step.
        totals: what the losses are divided by; None takes this batch for the whole step.

    Returns:
        The total, and losses without their weights: those of the last decoder layer, with "total".
    """
    groups, criterion = config.query_groups, config.criterion
    totals = count_totals(batch.targets.counts, config) if totals is None else totals
    encoded = model.encode(batch.pixels, batch.padding)
    states = model.decode(encoded, scaffold.queries(model))  # L, B, GQ, D
    if config.learned == "masks":
        states = states[-1:]  # masks are made from the last layer; classes and boxes only match
    # Every group is matched on its own, as if it were one more image with the same objects.
    states = states.unflatten(2, (groups, -1)).flatten(1, 2).float()  # L, BG, Q, D
    with torch.autocast(states.device.type, enabled=False):
        logits, boxes = model.class_head(states), model.box_head(states)
    targets = repeat_targets(batch.targets, groups)
    matches = match(logits, boxes, targets, criterion.costs)

    losses: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}  # of the scaffold, with weights of their own
    if config.learned == "all":
        shared = totals.times(groups)
        losses |= detection_losses(logits, boxes, targets, matches, criterion, shared)
    if scaffold.token_heads is not None:
        tokens = scaffold.token_heads.loss(encoded.memory, batch.targets, criterion, totals)
        extra["tokens"] = config.token_weight * tokens
    if scaffold.denoiser is not None:
        extra["denoising"] = denoising_loss(
            model, scaffold.denoiser, encoded, batch.targets, criterion, totals
        )
    if with_masks:
        own = matches.where((matches.layer == len(logits) - 1) & (matches.image % groups == 0))
        image = own.image // groups
        objects = own.object - targets.starts[own.image] + batch.targets.starts[image]
        own = replace(own, image=image, object=objects)
        masked, looks = _mask_losses(
            model, encoded, states[-1, ::groups], own, batch, config, totals.objects
        )
        losses |= masked
        extra |= looks

    total = torch.stack([weighted_sum(losses, criterion), *extra.values()]).sum()
    shown = {name: loss if loss.dim() == 0 else loss[-1] for name, loss in losses.items()}
    shown |= extra | {"total": total}
    return total, {name: loss.detach() for name, loss in shown.items()}


def _mask_losses(
    model: Detr,
    encoded: Encoded,
    states: Tensor,
    own: Matches,
    batch: Batch,
    config: TrainConfig,
    num_objects: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses of the masks of matched queries, states (B, Q, D), and of where these look."""
    fraction = min(1.0, config.mask_objects / max(1, len(own.query)))
    own = own.where(torch.randperm(len(own.query), device=own.query.device) < config.mask_objects)
    attention = model.attend(encoded, states, own.image, own.query)  # N, A, h, w
    masks = model.refine(model.share(encoded), attention, own.image).float()  # N, h, w
    share = fraction * num_objects
    with torch.autocast(masks.device.type, enabled=False):
        losses = mask_losses(
            masks, batch.targets, own.object, batch.padding, config.criterion, share
        )
        if not config.attention_weight:
            return losses, {}
        away = attention_loss(attention.float(), batch.targets.masks(own.object)).sum() / share
    return losses, {"attention": config.attention_weight * away}


def repeat_targets(targets: Targets, groups: int) -> Targets:
    """The same objects for each of the groups of every image; index maps are not repeated."""
    image = targets.image
    order = torch.cat(
        [(image == b).nonzero()[:, 0].repeat(groups) for b in range(len(targets.counts))]
    )
    return Targets(
        classes=targets.classes[order],
        boxes=targets.boxes[order],
        counts=tuple(count for count in targets.counts for _ in range(groups)),
        index_map=targets.index_map,
    )
