"""Auxiliary heads: parts that speed up learning and are left out afterwards, to plain DETR.

Positions reach queries and keys, never values, so the encoder's output does not say where a token
lies until it has learned to.

- Token supervision (in the spirit of Co-DETR, Zong et al., 2023): heads that predict, from every
  token of the encoder's output, the class and the whole box of the object that covers it.
- Attention supervision: the mask head refines where a query looks, so this should lie within the
  query's object. From the masks alone the model learns it last.
- Queries that start on a grid, with cross-attention that starts by comparing positions.

Letters: B images, D channels, K objects of an image, N chosen objects or
masks, A attention heads, H and W the images' size, h and w the feature map's size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.boxes import box_giou, box_l1, cxcywh_to_xyxy
from panodetr.model.config import Architecture, DetrConfig
from panodetr.model.detr import BoxHead, Detr
from panodetr.model.transformer import SinePositions
from panodetr.objective.config import CriterionConfig, ObjectiveConfig
from panodetr.objective.targets import Batch, Totals


class AuxiliaryHeads(nn.Module):
    """What training adds to a model: the parts that a configuration asks for."""

    def __init__(self, shape: Architecture, config: ObjectiveConfig) -> None:
        super().__init__()
        self.token_heads: TokenHeads | None = None
        if isinstance(shape, DetrConfig) and config.token_weight:
            self.token_heads = TokenHeads(shape)


class TokenHeads(nn.Module):
    """A class and a box for every token of the encoder's output."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.class_head = nn.Linear(config.hidden_dim, config.num_classes + 1)
        self.box_head = BoxHead(config)

    def loss(self, memory: Tensor, batch: Batch, config: CriterionConfig, totals: Totals) -> Tensor:
        """The loss of what each token of memory (B, D, h, w) predicts of the object at its centre.

        The weighted sum of the class loss, a mean over tokens, and L1 and GIoU, over objects. Where
        there are no masks, the object is the one with the smallest box around the centre.
        """
        targets = batch.targets
        rows, columns = (  # at the centres of the tokens' patches
            (torch.arange(small, device=memory.device) + 0.5) * (large / small)
            for small, large in zip(memory.shape[-2:], batch.pixels.shape[-2:], strict=True)
        )
        if targets.index_map is None:
            place = _smallest_boxes(batch, rows, columns).flatten()  # Bhw
        else:
            place = targets.index_map[:, rows.long()[:, None], columns.long()].long().flatten()
        covered = place > 0
        tokens = memory.permute(0, 2, 3, 1).flatten(0, 2).float()  # Bhw, D
        image = torch.arange(len(memory), device=memory.device)  # B
        image = image.repeat_interleave(memory[0, 0].numel())  # Bhw
        objects = (targets.starts[image] + place - 1)[covered]  # N
        nothing = self.class_head.out_features - 1
        classes = torch.full_like(place, nothing).masked_scatter(covered, targets.classes[objects])
        share = len(memory) / totals.images  # of the step's images
        with torch.autocast(tokens.device.type, enabled=False):
            logits, boxes = self.class_head(tokens), self.box_head(tokens[covered])
        label = F.cross_entropy(logits, classes) * share
        target = targets.boxes[objects]  # N, 4
        # Every object counts the same. By tokens, stuff would count most.
        weight = 1 / objects.bincount()[objects]  # N
        l1 = (weight * box_l1(boxes, target)).sum() / totals.objects
        giou = (weight * box_giou(boxes, target)).sum() / totals.objects
        return config.label * label + config.l1 * l1 + config.giou * giou


def _smallest_boxes(batch: Batch, rows: Tensor, columns: Tensor) -> Tensor:
    """Find the smallest box around each point, of rows (h,) and columns (w,) in pixels.

    Returns:
        (B, h, w) int64, 1 + the object's place within its image; 0 where there is none.
    """
    found = torch.zeros(len(batch.pixels), len(rows), len(columns), dtype=torch.int64)
    found = found.to(rows.device)
    for number, boxes in enumerate(batch.targets.boxes.split(batch.targets.counts)):
        if not len(boxes):
            continue
        height, width = batch.pixels.shape[-2:]
        if batch.padding is not None:  # boxes are fractions of the image without it
            shown = ~batch.padding[number]
            height, width = shown.any(1).sum(), shown.any(0).sum()
        x0, y0, x1, y1 = cxcywh_to_xyxy(boxes)[:, :, None].unbind(1)  # each K, 1
        y, x = rows / height, columns / width
        inside = ((y0 <= y) & (y < y1))[:, :, None] & ((x0 <= x) & (x < x1))[:, None]  # K, h, w
        areas = boxes[:, 2:].prod(1)[:, None, None].where(inside, torch.inf)  # K, h, w
        found[number] = (areas.argmin(0) + 1) * inside.any(0)
    return found


def attention_loss(attention: Tensor, masks: Tensor) -> Tensor:
    """The negative logarithm of the share of attention that lies within a query's object.

    Args:
        attention: (N, A, h, w), which sums to 1 for each of N.
        masks: (N, H, W), 0.0 or 1.0; a patch lies within if any of its pixels does.

    Returns:
        (N,).
    """
    within = F.adaptive_max_pool2d(masks[:, None], attention.shape[-2:])  # N, 1, h, w
    return -(attention * within).sum((1, 2, 3)).clamp(min=1e-6).log()


@torch.no_grad()
def place_queries_on_grid(model: Detr) -> None:
    """Start queries as positions of points, and cross-attention as a comparison of positions.

    Points are spread evenly over the image, on a lattice of the golden ratio. Queries and keys of
    the decoder's cross-attention, or the places of conditional ones, start with the same
    projection, so that a query first reads what lies near its point.
    """
    count, dim = model.queries.weight.shape
    fine, index = 256, torch.arange(count)
    table = SinePositions(dim)(torch.zeros(1, fine, fine, dtype=torch.bool))[0]  # D, fine, fine
    x, y = index * 0.6180339887 % 1, (index + 0.5) / count
    model.queries.weight.copy_(table[:, (y * fine).long(), (x * fine).long()].T)
    query, key = "query.weight", "key.weight"
    if model.points is not None:
        model.points.copy_(torch.stack((x, y), dim=-1).logit(1e-2))
        query, key = "query_near.weight", "key_place.weight"
    for layer in model.decoder.layers:
        attention = layer.get_submodule("cross_attention")
        weight = attention.get_parameter(query)
        nn.init.orthogonal_(weight, gain=1.5)
        attention.get_parameter(key).copy_(weight)
