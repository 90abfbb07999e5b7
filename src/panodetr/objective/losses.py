"""The losses as pure functions (paper, section 3.1, appendix A.2, and section 4.4 for masks)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from panodetr.boxes import cxcywh_to_xyxy, generalized_iou


def classification_loss(logits: Tensor, classes: Tensor, no_object_weight: float) -> Tensor:
    """Cross-entropy in which "no object", the last class, counts less: a weighted sum a layer.

    The paper's mean is this by the sum of the weights, which is that of the whole step.

    Args:
        logits: (L, N, C + 1).
        classes: (L, N) int64, C where there is no object.
        no_object_weight: the paper's 0.1, against the great many queries without an object.

    Returns:
        (L,).
    """
    weight = logits.new_ones(logits.shape[-1])
    weight[-1] = no_object_weight
    each = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view_as(
        classes
    )
    return (each * weight[classes]).sum(1)


def box_l1(boxes: Tensor, truth: Tensor) -> Tensor:
    """Sum of the four differences of each pair of boxes (N, 4), cxcywh in fractions: (N,)."""
    return (boxes - truth).abs().sum(-1)


def box_giou(boxes: Tensor, truth: Tensor) -> Tensor:
    """1 - generalised IoU of each pair of boxes (N, 4), cxcywh: (N,), 0 to 2."""
    return 1 - generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth))


def focal_loss(
    logits: Tensor,
    truth: Tensor,
    valid: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Focal loss (Lin et al., 2017), the mean over each mask's pixels.

    Args:
        logits: (N, P).
        truth: (N, P), 0.0 or 1.0.
        valid: (N, P), 1.0 where a pixel counts, 0.0 at padding; None counts all.
        alpha: weight of the pixels inside; the ones outside weigh 1 - alpha.
        gamma: how strongly pixels that are already right are discounted.

    Returns:
        (N,).
    """
    # Logits that are above 0 where the answer is wrong: both terms follow from them, in few passes
    # over tensors that are large.
    wrong = logits * (1 - 2 * truth)
    weight = (1 - alpha) + (2 * alpha - 1) * truth
    each = weight * wrong.sigmoid() ** gamma * F.softplus(wrong)
    if valid is None:
        return each.mean(1)
    return (each * valid).sum(1) / valid.sum(1).clamp(min=1)


def dice_loss(logits: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Dice loss with one added above and below (Milletari et al., 2016), as `focal_loss` takes it.

    Returns:
        (N,), 0 to 1.
    """
    probability = logits.sigmoid()
    if valid is not None:
        probability = probability * valid
    both = (probability * truth).sum(1)
    return 1 - (2 * both + 1) / (probability.sum(1) + truth.sum(1) + 1)
