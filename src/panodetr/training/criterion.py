"""The set criterion: match, then sum the losses (paper, section 3.1, equation 2).

Letters: L decoder layers, B images, Q queries, C classes, M matched pairs, h and w the masks' size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from panodetr.training.losses import box_giou, box_l1, classification_loss, dice_loss, focal_loss
from panodetr.training.matcher import MatchCosts

if TYPE_CHECKING:
    from panodetr.training.batch import Targets
    from panodetr.training.matcher import Matches


@dataclass(frozen=True, kw_only=True)
class CriterionConfig:
    """Weights of costs and losses.

    Attributes:
        costs: of the matching.
        label: weight of the class loss.
        l1: weight of the box L1 loss.
        giou: weight of the box generalised-IoU loss.
        focal: weight of the masks' focal loss.
        dice: weight of the masks' Dice loss.
        no_object: weight of queries without an object within the class loss.
        mask_padding: whether padding counts in the mask losses, as it does in the original.
    """

    costs: MatchCosts = field(default_factory=MatchCosts)
    label: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    focal: float = 1.0
    dice: float = 1.0
    no_object: float = 0.1
    mask_padding: bool = False


def detection_losses(
    logits: Tensor,
    boxes: Tensor,
    targets: Targets,
    matches: Matches,
    config: CriterionConfig,
    num_boxes: float,
) -> dict[str, Tensor]:
    """Unweighted losses of every decoder layer.

    Args:
        logits: (L, B, Q, C + 1).
        boxes: (L, B, Q, 4), cxcywh in fractions.
        targets: the objects.
        matches: which query stands for which object.
        config: for the weight of "no object".
        num_boxes: what the box losses are divided by: objects in the batch, at least 1.

    Returns:
        "label", "l1" and "giou", each (L,).
    """
    layers, images, queries, _ = logits.shape
    classes = torch.full((layers, images, queries), logits.shape[-1] - 1, device=logits.device)
    classes[matches.layer, matches.image, matches.query] = targets.classes[matches.object]
    matched = boxes[matches.layer, matches.image, matches.query]  # M, 4
    truth = targets.boxes[matches.object]  # M, 4
    zeros = boxes.new_zeros(layers)
    return {
        "label": classification_loss(logits.flatten(1, 2), classes.flatten(1), config.no_object),
        "l1": zeros.index_add(0, matches.layer, box_l1(matched, truth)) / num_boxes,
        "giou": zeros.index_add(0, matches.layer, box_giou(matched, truth)) / num_boxes,
    }


def mask_losses(
    masks: Tensor,
    targets: Targets,
    objects: Tensor,
    padding: Tensor | None,
    config: CriterionConfig,
    num_boxes: float,
) -> dict[str, Tensor]:
    """Unweighted losses of matched masks.

    Only masks of matched queries have a loss, so only they are ever computed.

    Args:
        masks: (M, h, w) logits, enlarged here to the targets' size.
        targets: the objects.
        objects: (M,), the object of each mask.
        padding: (B, H, W), True at padding; None where there is none.
        config: whether padding counts.
        num_boxes: what the sums are divided by.

    Returns:
        "focal" and "dice", scalars.
    """
    truth = targets.masks(objects)  # M, H, W
    logits = F.interpolate(masks[:, None], truth.shape[-2:], mode="bilinear").flatten(1)  # M, HW
    valid = None
    if padding is not None and not config.mask_padding:
        valid = (~padding)[targets.image[objects]].to(logits.dtype).flatten(1)  # M, HW
    truth = truth.flatten(1)
    return {
        "focal": focal_loss(logits, truth, valid).sum() / num_boxes,
        "dice": dice_loss(logits, truth, valid).sum() / num_boxes,
    }


def weighted_sum(losses: dict[str, Tensor], config: CriterionConfig) -> Tensor:
    """The total that is minimised: each loss by its weight, over all layers."""
    return torch.stack([getattr(config, name) * loss.sum() for name, loss in losses.items()]).sum()
