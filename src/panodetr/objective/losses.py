"""The losses as pure functions (paper, section 3.1, appendix A.2, and section 4.4 for masks)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from panodetr.boxes import cxcywh_to_xyxy, generalized_iou


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


def box_l1(boxes: Tensor, target: Tensor) -> Tensor:
    """Sum of the four differences of each pair of boxes (N, 4), cxcywh in fractions: (N,)."""
    return (boxes - target).abs().sum(-1)


def box_giou(boxes: Tensor, target: Tensor) -> Tensor:
    """1 - generalised IoU of each pair of boxes (N, 4), cxcywh: (N,), 0 to 2."""
    return 1 - generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target))


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
