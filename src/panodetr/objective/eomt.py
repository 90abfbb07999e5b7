"""EoMT's losses, which are Mask2Former's: of classes, and of masks at sampled points.

Every query block predicts, and each prediction is matched and has losses of its own.

Letters: B images, Q queries, C classes, D channels, K query blocks, T objects of an image, P
points, M matched pairs, y and x height and width of a mask.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from panodetr.model.eomt import Eomt
from panodetr.objective.config import CriterionConfig, ObjectiveConfig
from panodetr.objective.criterion import (
    WORST,
    classification_loss,
    dice_loss,
    weighted_sum,
)
from panodetr.objective.targets import Batch, Targets, Totals, count_totals

ANNEALING_POWER = 0.9
OBJECTS_AT_ONCE = 32
"""Masks at their full size that are read at a time."""


def masked_share(progress: float, blocks: int) -> list[float]:
    """How likely each query is to read only its mask's patches, block by block (K,).

    Masked attention ends in one block after the other, from the first on: each takes a sixth of the
    run, the first begins after a sixth of it, and the last ends a sixth before its end.

    Args:
        progress: part of the run that is done, 0 to 1.
        blocks: K.
    """
    shares: list[float] = []
    for block in range(blocks):
        begin = (1 + 3 * block / max(1, blocks - 1)) / 6
        done = min(1.0, max(0.0, (progress - begin) * 6))
        shares.append((1 - done) ** ANNEALING_POWER)
    return shares


def compute_eomt_losses(
    model: Eomt,
    batch: Batch,
    config: ObjectiveConfig,
    *,
    progress: float,
    totals: Totals | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The total to minimise, and its parts to log.

    With the totals of a whole step, the losses of its parts add up to the loss of the step.

    Args:
        model: the model.
        batch: images and objects; what is beside an image is no object's.
        config: what to minimise.
        progress: part of the run that is done, which decides how much attention is masked.
        totals: what the losses are divided by; None if this batch is the whole step.

    Returns:
        The total, and the unweighted losses of the last prediction by name, with "total".
    """
    criterion, targets = config.criterion, batch.targets
    if totals is None:
        totals = count_totals(targets.counts, model.config.num_queries, criterion.no_object)
    masked = masked_share(progress, model.config.query_blocks) if config.masked_attention else []
    parts: list[Tensor] = []
    losses: dict[str, Tensor] = {}
    for found in model.every_block(batch.pixels, masked):
        with torch.autocast(batch.pixels.device.type, enabled=False):
            masks = model.every_mask(found).float()
            losses = point_losses(found.logits.float(), masks, targets, criterion, totals)
            parts.append(weighted_sum(losses, criterion))
    total = torch.stack(parts).sum()
    return total, {name: loss.detach() for name, loss in (losses | {"total": total}).items()}


def point_losses(
    logits: Tensor, masks: Tensor, targets: Targets, config: CriterionConfig, totals: Totals
) -> dict[str, Tensor]:
    """Match one prediction, and give its unweighted losses.

    Args:
        logits: (B, Q, C + 1).
        masks: (B, Q, y, x) logits.
        targets: the objects.
        config: weights, and how points are drawn.
        totals: what sums are divided by.

    Returns:
        "label", "mask" and "dice", scalars.
    """
    image, query, object_ = match_masks(logits, masks, targets, config)
    classes = torch.full(logits.shape[:2], logits.shape[-1] - 1, device=logits.device)
    classes[image, query] = targets.classes[object_]
    label = classification_loss(
        logits.flatten(0, 1)[None], classes.flatten()[None], config.no_object
    )
    chosen = masks[image, query]  # M, y, x
    with torch.no_grad():
        points = draw_points(chosen, config)  # M, P, 2
        inside = sample_targets(targets, object_, points)  # M, P
    values = sample(chosen, points)  # M, P
    mask = F.binary_cross_entropy_with_logits(values, inside, reduction="none").mean(1).sum()
    return {
        "label": label[0] / totals.label_weight,
        "mask": mask / totals.objects,
        "dice": dice_loss(values, inside).sum() / totals.objects,
    }


@torch.no_grad()
def match_masks(
    logits: Tensor, masks: Tensor, targets: Targets, config: CriterionConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the cheapest one-to-one assignment of each image's queries and objects.

    Masks are compared at points that are drawn evenly, the same for all of an image.

    Returns:
        Image, query and object of each of the M pairs, sorted by image and query.
    """
    pairs: list[np.ndarray] = []
    start = 0
    for number, count in enumerate(targets.counts):
        points = torch.rand(1, config.points, 2, device=masks.device)
        objects = torch.arange(start, start + count, device=masks.device)
        every = masks[number]  # Q, y, x
        value = sample(every, points.expand(len(every), -1, -1))  # Q, P
        inside = sample_targets(targets, objects, points.expand(count, -1, -1))  # T, P
        cost = -config.label * logits[number].softmax(-1)[:, targets.classes[objects]]
        # The cross-entropy of every pair: softplus(value) - value * inside, the mean over points.
        entropy = F.softplus(value).mean(1)[:, None] - value @ inside.T / config.points
        probability = value.sigmoid()
        both = probability @ inside.T  # Q, T
        dice = 1 - (2 * both + 1) / (probability.sum(1)[:, None] + inside.sum(1) + 1)
        cost = (cost + config.mask * entropy + config.dice * dice).cpu().numpy()
        np.nan_to_num(cost, copy=False, nan=WORST, posinf=WORST, neginf=WORST)
        query, place = linear_sum_assignment(cost)
        pairs.append(np.stack((np.full_like(query, number), query, place + start)))
        start += count
    found = torch.from_numpy(np.concatenate(pairs, axis=1, dtype=np.int64)).to(masks.device)
    return found[0], found[1], found[2]


def draw_points(masks: Tensor, config: CriterionConfig) -> Tensor:
    """Points (M, P, 2), x and y in 0 to 1, most of them where masks (M, y, x) are least certain.

    Three times as many are drawn evenly as are wanted, and three quarters of those wanted are the
    least certain of them; the others are drawn evenly.
    """
    uncertain = int(config.importance * config.points)
    drawn = torch.rand(len(masks), int(config.points * config.oversample), 2, device=masks.device)
    least = sample(masks, drawn).abs().neg().topk(uncertain, dim=1).indices  # M, uncertain
    chosen = drawn.gather(1, least[..., None].expand(-1, -1, 2))
    even = torch.rand(len(masks), config.points - uncertain, 2, device=masks.device)
    return torch.cat((chosen, even), 1)


def sample(masks: Tensor, points: Tensor) -> Tensor:
    """Values (M, P) of masks (M, y, x) at points (M, P, 2), bilinear, beyond their edges 0."""
    grid = (2 * points - 1)[:, :, None]  # M, P, 1, 2
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0, :, 0]


def sample_targets(targets: Targets, objects: Tensor, points: Tensor) -> Tensor:
    """The same (N, P) of objects (N,), of which only a few are laid out as masks at a time."""
    parts = zip(objects.split(OBJECTS_AT_ONCE), points.split(OBJECTS_AT_ONCE), strict=True)
    found = [sample(targets.masks(own), at) for own, at in parts]
    return torch.cat(found) if found else points.new_zeros(0, points.shape[1])
