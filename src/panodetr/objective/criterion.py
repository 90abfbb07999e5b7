"""Matching and losses (paper, section 3.1): match queries with objects, then sum the losses.

In the paper's order: predictions of every decoder layer, their matching (equation 1 and appendix
A.3), the losses of matched pairs (equation 2), and each loss as a pure function.

Letters: L decoder layers, B images, Q queries, C classes, D channels, T objects of the fullest
image, K objects of the batch, M matched pairs, N masks, h and w the masks' size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from panodetr.boxes import box_giou, box_l1, cxcywh_to_xyxy, generalized_iou
from panodetr.model.detr import Detr
from panodetr.objective.auxiliary import AuxiliaryHeads, attention_loss
from panodetr.objective.config import CriterionConfig, MatchCosts, ObjectiveConfig
from panodetr.objective.targets import Batch, Targets, Totals, count_totals

WORST = 1e6
"""A cost far above any other: with the default weights a pair costs 30 at most."""

PIXELS_AT_ONCE = 2**18
"""Of masks at their full size, in the mask losses."""


class Matches(NamedTuple):
    """M pairs, sorted by layer, image and query; each attribute is (M,) int64.

    Attributes:
        layer: decoder layer.
        image: image.
        query: the prediction's query.
        object: the object, among the K of the batch.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    object: Tensor

    def where(self, keep: Tensor) -> Matches:
        """The pairs for which `keep` (M,) is True."""
        return Matches(*(each[keep] for each in self))


def compute_losses(
    model: Detr,
    auxiliary: AuxiliaryHeads,
    batch: Batch,
    config: ObjectiveConfig,
    *,
    with_masks: bool,
    totals: Totals | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The total to minimise, and its parts to log.

    With the totals of a whole step, the losses of its parts add up to the loss of the step.

    Args:
        model: the model.
        auxiliary: the parts that only training has.
        batch: images and objects.
        config: what to minimise.
        with_masks: whether masks are learned in this step.
        totals: what the losses are divided by; None if this batch is the whole step.

    Returns:
        The total, and the unweighted losses of the last decoder layer by name, with "total".
    """
    criterion, targets = config.criterion, batch.targets
    if totals is None:
        totals = count_totals(targets.counts, model.config.num_queries, criterion.no_object)
    encoded = model.encode(batch.pixels, batch.padding)
    states = model.decode(encoded).float()  # L, B, Q, D
    if config.learned == "masks":
        states = states[-1:]  # masks are made from the last layer; classes and boxes only match
    with torch.autocast(states.device.type, enabled=False):
        logits, boxes = model.class_head(states), model.boxes(states)
    matches = match(logits, boxes, targets, criterion.costs)

    losses: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}  # of the auxiliary heads, with weights of their own
    if config.learned == "all":
        losses |= detection_losses(logits, boxes, targets, matches, criterion, totals)  # L
    if auxiliary.token_heads is not None:
        tokens = auxiliary.token_heads.loss(encoded.memory, batch, criterion, totals)
        extra["tokens"] = config.token_weight * tokens
    if with_masks:
        # Of the last layer, and a share of them where there are many.
        own = matches.where(matches.layer == len(logits) - 1)
        matched = len(own.query)
        num_objects = totals.objects * min(1.0, config.mask_objects / max(1, matched))
        own = own.where(torch.randperm(matched, device=logits.device) < config.mask_objects)
        attention = model.attend(encoded, states[-1], own.image, own.query)  # N, A, h, w
        masks = model.refine(model.share(encoded), attention, own.image).float()  # N, h, w
        with torch.autocast(masks.device.type, enabled=False):
            losses |= mask_losses(masks, targets, own.object, batch.padding, criterion, num_objects)
            if config.attention_weight:
                away = attention_loss(attention.float(), targets.masks(own.object))  # N
                extra["attention"] = config.attention_weight * away.sum() / num_objects

    total = torch.stack([weighted_sum(losses, criterion), *extra.values()]).sum()
    shown = {name: loss if loss.dim() == 0 else loss[-1] for name, loss in losses.items()}
    shown |= extra | {"total": total}
    return total, {name: loss.detach() for name, loss in shown.items()}


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, targets: Targets, costs: MatchCosts) -> Matches:
    """Find the cheapest one-to-one assignment, for each layer and image alone.

    The costs of all layers and images leave the device in one transfer. A non-finite cost counts as
    the worst: the loss is non-finite, too, then, and the training loop handles it.

    Args:
        logits: (L, B, Q, C + 1).
        boxes: (L, B, Q, 4), cxcywh in fractions.
        targets: the objects.
        costs: the weights.
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    found = pair_costs(logits.to(exact), boxes.to(exact), targets, costs)
    cost = found.cpu().numpy()  # L, B, Q, T
    np.nan_to_num(cost, copy=False, nan=WORST, posinf=WORST, neginf=WORST)
    starts = np.cumsum((0, *targets.counts))
    pairs: list[np.ndarray] = []
    for layer, image in np.ndindex(*cost.shape[:2]):
        query, place = linear_sum_assignment(cost[layer, image, :, : targets.counts[image]])
        where = np.full_like(query, layer), np.full_like(query, image)
        pairs.append(np.stack((*where, query, place + starts[image])))  # 4, pairs of the image
    matched = torch.from_numpy(np.concatenate(pairs, axis=1, dtype=np.int64))  # 4, M
    return Matches(*matched.to(logits.device))


def pair_costs(logits: Tensor, boxes: Tensor, targets: Targets, costs: MatchCosts) -> Tensor:
    """The cost (L, B, Q, T) of every pair; columns past an image's own count mean nothing.

    The class term is minus the probability rather than its logarithm, which puts it on the scale of
    the box terms.
    """
    layers, _, queries, _ = logits.shape
    widest = max(targets.counts, default=0)
    if widest == 0:
        return logits.new_zeros((*logits.shape[:3], 0))
    column = torch.arange(widest, device=logits.device)  # T
    counts = torch.tensor(targets.counts, device=logits.device)[:, None]  # B, 1
    # Columns past an image's count repeat the batch's first object, so that every cost is defined.
    index = torch.where(column < counts, targets.starts[:, None] + column, 0)  # B, T
    classes, target = targets.classes[index], targets.boxes[index]  # B, T and B, T, 4

    every = classes[None, :, None].expand(layers, -1, queries, -1)  # L, B, Q, T
    label = -logits.softmax(-1).gather(3, every)  # L, B, Q, T
    near = box_l1(boxes[:, :, :, None], target[None, :, None])  # L, B, Q, T
    overlap = generalized_iou(
        cxcywh_to_xyxy(boxes)[:, :, :, None], cxcywh_to_xyxy(target)[None, :, None]
    )  # L, B, Q, T
    return costs.label * label + costs.l1 * near - costs.giou * overlap


def detection_losses(
    logits: Tensor,
    boxes: Tensor,
    targets: Targets,
    matches: Matches,
    config: CriterionConfig,
    totals: Totals,
) -> dict[str, Tensor]:
    """Unweighted losses of every decoder layer (equation 2; the boxes' part is appendix A.2).

    Args:
        logits: (L, B, Q, C + 1).
        boxes: (L, B, Q, 4), cxcywh in fractions.
        targets: the objects.
        matches: which query is matched with which object.
        config: for the weight of "no object".
        totals: what they are divided by.

    Returns:
        "label", "l1" and "giou", each (L,).
    """
    layers, images, queries, _ = logits.shape
    classes = torch.full((layers, images, queries), logits.shape[-1] - 1, device=logits.device)
    classes[matches.layer, matches.image, matches.query] = targets.classes[matches.object]
    matched = boxes[matches.layer, matches.image, matches.query]  # M, 4
    target = targets.boxes[matches.object]  # M, 4
    zeros = boxes.new_zeros(layers)
    label = classification_loss(
        logits.flatten(1, 2),  # L, BQ, C+1
        classes.flatten(1),  # L, BQ
        config.no_object,
    )
    return {
        "label": label / totals.label_weight,
        "l1": zeros.index_add(0, matches.layer, box_l1(matched, target)) / totals.objects,
        "giou": zeros.index_add(0, matches.layer, box_giou(matched, target)) / totals.objects,
    }


def mask_losses(
    masks: Tensor,
    targets: Targets,
    objects: Tensor,
    padding: Tensor | None,
    config: CriterionConfig,
    num_objects: float,
) -> dict[str, Tensor]:
    """Unweighted losses of matched masks (section 4.4).

    Only masks of matched queries have a loss, so only they are computed.

    Args:
        masks: (M, h, w) logits, enlarged here to the targets' size.
        targets: the objects.
        objects: (M,), the object of each mask.
        padding: (B, H, W), True at padding; None if no image has any.
        config: whether padding counts.
        num_objects: what the sums are divided by.

    Returns:
        "focal" and "dice", scalars.
    """
    assert targets.index_map is not None
    size, soft = targets.index_map.shape[1:], targets.index_map.is_floating_point()
    # Two products enlarge as `F.interpolate` does, and their gradients take a tenth of its time.
    units = (torch.eye(side, dtype=masks.dtype, device=masks.device) for side in masks.shape[1:])
    rows, columns = (
        F.interpolate(unit[None], side, mode="linear")[0].T
        for unit, side in zip(units, size, strict=True)
    )  # H, h and W, w

    def losses_of(masks: Tensor, objects: Tensor) -> Tensor:
        logits = (rows @ masks @ columns.T).flatten(1)  # N, HW
        target = targets.masks(objects).flatten(1)  # N, HW
        valid = None
        if padding is not None and not config.mask_padding:
            valid = (~padding)[targets.image[objects]].to(logits.dtype).flatten(1)  # N, HW
        focal = focal_loss(logits, target, valid, soft=soft).sum()
        return torch.stack((focal, dice_loss(logits, target, valid).sum()))

    # Masks at their full size, with the tensors from there to the losses, would be the largest of a
    # step. So a few masks go at a time, and their tensors are computed again when needed.
    at_once = max(1, PIXELS_AT_ONCE // size.numel())
    sums = [
        checkpoint(losses_of, some, own, use_reentrant=False, preserve_rng_state=False)
        for some, own in zip(masks.split(at_once), objects.split(at_once), strict=True)
    ]  # of (2,)
    focal, dice = torch.stack(sums).sum(0) / num_objects
    return {"focal": focal, "dice": dice}


def weighted_sum(losses: dict[str, Tensor], config: CriterionConfig) -> Tensor:
    """The sum of all losses over all layers, each times its weight."""
    return torch.stack([getattr(config, name) * loss.sum() for name, loss in losses.items()]).sum()


def classification_loss(logits: Tensor, classes: Tensor, no_object_weight: float) -> Tensor:
    """Sum over queries of the cross-entropy, in which "no object", the last class, counts less.

    The paper's mean is this sum divided by the weights of the whole step (`Totals.label_weight`).

    Args:
        logits: (L, N, C + 1).
        classes: (L, N) int64, C where there is no object.
        no_object_weight: 0.1 in the paper, because most queries have no object.

    Returns:
        (L,).
    """
    weight = logits.new_ones(logits.shape[-1])
    weight[-1] = no_object_weight
    each = F.cross_entropy(logits.transpose(1, 2), classes, reduction="none")  # L, N
    return (each * weight[classes]).sum(1)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
    *,
    soft: bool = False,
) -> Tensor:
    """Focal loss (Lin et al., 2017), the mean over each mask's pixels.

    Args:
        logits: (N, P).
        target: (N, P), 0.0 or 1.0; where `soft`, also between.
        valid: (N, P), 1.0 where a pixel counts, 0.0 at padding; None counts all.
        alpha: weight of the pixels inside; the ones outside weigh 1 - alpha.
        gamma: how strongly pixels that are already right are discounted.
        soft: whether targets may lie between 0 and 1.

    Returns:
        (N,).
    """
    weight = (1 - alpha) + (2 * alpha - 1) * target
    if soft:
        inside = logits.sigmoid()
        missed = inside + target - 2 * inside * target
        each = weight * missed**gamma * (F.softplus(logits) - logits * target)
    else:  # one formula for both classes saves passes over large tensors
        wrong = logits * (1 - 2 * target)  # the logit of being wrong
        each = weight * wrong.sigmoid() ** gamma * F.softplus(wrong)
    if valid is None:
        return each.mean(1)
    return (each * valid).sum(1) / valid.sum(1).clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Dice loss (Milletari et al., 2016), with one added above and below the fraction line.

    Arguments are those of `focal_loss`.

    Returns:
        (N,), 0 to 1.
    """
    probability = logits.sigmoid()
    if valid is not None:
        probability = probability * valid
    both = (probability * target).sum(1)
    return 1 - (2 * both + 1) / (probability.sum(1) + target.sum(1) + 1)
