"""Bipartite matching of predictions and objects (paper, section 3.1, equation 1, and appendix A.3).

Letters: L decoder layers, B images, Q queries, C classes, T objects of the fullest image, K objects
of the batch, M matched pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from panodetr.boxes import box_l1, cxcywh_to_xyxy, generalized_iou
from panodetr.objective.config import MatchCosts
from panodetr.objective.targets import Targets

WORST = 1e6
"""A cost far above any other: with the default weights a pair costs 30 at most."""


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
