"""The set criterion: match, then sum the losses (paper, section 3.1, equation 2).

Letters: L decoder layers, B images, Q queries, C classes, M matched pairs, h and w the masks' size.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from panodetr.objective.losses import box_giou, box_l1, classification_loss, dice_loss, focal_loss
from panodetr.objective.matcher import MatchCosts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from panodetr.objective.matcher import Matches
    from panodetr.training.batch import Targets
    from panodetr.training.config import TrainConfig

PIXELS_AT_ONCE = 2**18
"""Of masks at their full size, in the mask losses."""


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


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What the losses of a step are divided by, counted over the whole step.

    Attributes:
        objects: of all images, at least 1: box and mask losses are means over objects.
        label_weight: of all queries in the class loss.
        images: in the step.
    """

    objects: float
    label_weight: float
    images: float

    def times(self, groups: int) -> Totals:
        """The same where every query and object is there once a group."""
        return replace(self, objects=self.objects * groups, label_weight=self.label_weight * groups)


def count_totals(counts: Sequence[int], config: TrainConfig) -> Totals:
    """What the losses of some images are divided by, from how many objects each has.

    Every object that can be is matched, so the class loss's weights are known beforehand.
    """
    queries = config.spec.architecture.num_queries
    matched = sum(min(count, queries) for count in counts)
    empty = len(counts) * queries - matched
    return Totals(
        objects=max(1, sum(counts)),
        label_weight=matched + config.criterion.no_object * empty,
        images=len(counts),
    )


def detection_losses(
    logits: Tensor,
    boxes: Tensor,
    targets: Targets,
    matches: Matches,
    config: CriterionConfig,
    totals: Totals,
) -> dict[str, Tensor]:
    """Unweighted losses of every decoder layer.

    Args:
        logits: (L, B, Q, C + 1).
        boxes: (L, B, Q, 4), cxcywh in fractions.
        targets: the objects.
        matches: which query stands for which object.
        config: for the weight of "no object".
        totals: what they are divided by.

    Returns:
        "label", "l1" and "giou", each (L,).
    """
    layers, images, queries, _ = logits.shape
    classes = torch.full((layers, images, queries), logits.shape[-1] - 1, device=logits.device)
    classes[matches.layer, matches.image, matches.query] = targets.classes[matches.object]
    matched = boxes[matches.layer, matches.image, matches.query]  # M, 4
    truth = targets.boxes[matches.object]  # M, 4
    zeros = boxes.new_zeros(layers)
    label = classification_loss(logits.flatten(1, 2), classes.flatten(1), config.no_object)
    return {
        "label": label / totals.label_weight,
        "l1": zeros.index_add(0, matches.layer, box_l1(matched, truth)) / totals.objects,
        "giou": zeros.index_add(0, matches.layer, box_giou(matched, truth)) / totals.objects,
    }


def mask_losses(
    masks: Tensor,
    targets: Targets,
    objects: Tensor,
    padding: Tensor | None,
    config: CriterionConfig,
    num_objects: float,
) -> dict[str, Tensor]:
    """Unweighted losses of matched masks.

    Only masks of matched queries have a loss, so only they are ever computed.

    Args:
        masks: (M, h, w) logits, enlarged here to the targets' size.
        targets: the objects.
        objects: (M,), the object of each mask.
        padding: (B, H, W), True at padding; None where there is none.
        config: whether padding counts.
        num_objects: what the sums are divided by.

    Returns:
        "focal" and "dice", scalars.
    """
    assert targets.index_map is not None
    size = targets.index_map.shape[1:]
    rows, columns = (
        _enlarging(small, large, masks) for small, large in zip(masks.shape[1:], size, strict=True)
    )

    def losses_of(masks: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        logits = (rows @ masks @ columns.T).flatten(1)  # N, HW
        truth = targets.masks(objects).flatten(1)  # N, HW
        valid = None
        if padding is not None and not config.mask_padding:
            valid = (~padding)[targets.image[objects]].to(logits.dtype).flatten(1)  # N, HW
        return focal_loss(logits, truth, valid).sum(), dice_loss(logits, truth, valid).sum()

    at_once = max(1, PIXELS_AT_ONCE // size.numel())
    focal, dice = cast(
        "tuple[Tensor, Tensor]", _SumOfParts.apply(masks, objects, losses_of, at_once)
    )
    return {"focal": focal / num_objects, "dice": dice / num_objects}


def _enlarging(small: int, large: int, like: Tensor) -> Tensor:
    """The matrix (large, small) of linear interpolation along one side.

    Two products enlarge as `F.interpolate` does, and their gradients take a tenth of its time.
    """
    each = torch.eye(small, dtype=like.dtype, device=like.device)
    return F.interpolate(each[None], large, mode="linear")[0].T


class _SumOfParts(torch.autograd.Function):
    """Two losses that are sums over masks, and their gradients, a few masks at a time.

    A mask at its full size and the dozen tensors that lead from it to its losses would be the
    largest of a step. So gradients are computed in the forward pass, back to the small masks, and
    these alone are kept.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        masks: Tensor,
        objects: Tensor,
        losses_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        at_once: int,
    ) -> tuple[Tensor, Tensor]:
        """The sums of what `losses_of` gives for masks (M, h, w) and objects (M,)."""
        sums = masks.new_zeros(2)
        gradients = masks.new_empty((2, *masks.shape))
        for start in range(0, len(masks), at_once):
            some = slice(start, start + at_once)
            part = masks[some].detach().requires_grad_(ctx.needs_input_grad[0])
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                losses = losses_of(part, objects[some])
            for place, loss in enumerate(losses):
                sums[place] += loss.detach()
                if loss.requires_grad:
                    (gradient,) = torch.autograd.grad(loss, part, retain_graph=place == 0)
                    gradients[place, some] = gradient
        ctx.save_for_backward(gradients)
        return sums[0], sums[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        """From the gradients of both sums to that of the masks."""
        (gradients,) = ctx.saved_tensors
        return grad_outputs[0] * gradients[0] + grad_outputs[1] * gradients[1], None, None, None


def weighted_sum(losses: dict[str, Tensor], config: CriterionConfig) -> Tensor:
    """Each loss by its weight, over all layers."""
    return torch.stack([getattr(config, name) * loss.sum() for name, loss in losses.items()]).sum()
