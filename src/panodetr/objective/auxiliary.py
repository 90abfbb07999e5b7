"""Parts that speed up learning and are taken down afterwards: what remains is plain DETR.

DETR learns slowly because each step gives gradients to a few matched queries only, and because the
encoder's output says nothing of where a token lies until it has learned to (position encodings
reach queries and keys, never values).
- Query groups (Group DETR, Chen et al., 2023): more sets of queries, each matched on its own, that
  share the decoder.
- Token supervision (in the spirit of Co-DETR, Zong et al., 2023): heads that predict, from every
  token of the encoder's output, the class and the whole box of the object that covers it.
- Attention supervision: where a query looks, which is what the mask head refines, should lie within
  its object. Through the masks alone this is learned last.
- Denoising (DN-DETR, Li et al., 2022): see `denoising.py`.
- Queries that start on a grid, with cross-attention that starts out comparing positions.

Letters: B images, M tokens, D channels, G groups, Q queries, C classes, h and w the feature map's
size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.model.heads import BoxHead, ClassHead
from panodetr.model.positions import SinePositions
from panodetr.objective.denoising import Denoiser
from panodetr.objective.losses import box_giou, box_l1

if TYPE_CHECKING:
    from panodetr.model.config import DetrConfig
    from panodetr.model.detr import Detr
    from panodetr.objective.criterion import CriterionConfig, Totals
    from panodetr.training.batch import Targets
    from panodetr.training.config import TrainConfig


class AuxiliaryHeads(nn.Module):
    """What training adds to a model: of the parts, those that a run asks for."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        shape = config.spec.architecture
        self.groups = config.query_groups
        self.more_queries: nn.Parameter | None = None
        if self.groups > 1:
            self.more_queries = nn.Parameter(
                torch.randn(self.groups - 1, shape.num_queries, shape.hidden_dim)
            )
        self.token_heads = TokenHeads(shape) if config.token_weight else None
        self.denoiser = Denoiser(shape, config.denoising) if config.denoising else None

    def queries(self, model: Detr) -> Tensor:
        """All groups (G, Q, D), the model's own first."""
        own = model.queries.weight[None]  # 1, Q, D
        return own if self.more_queries is None else torch.cat((own, self.more_queries))


def make_scaffold(model: Detr, config: TrainConfig) -> AuxiliaryHeads:
    """What a run adds to a model, whose queries are placed on a grid where the run asks for it."""
    scaffold = AuxiliaryHeads(config)
    if config.grid_queries and config.start is None:
        place_queries_on_grid(model, scaffold)
    return scaffold


class TokenHeads(nn.Module):
    """A class and a box for every token of the encoder's output."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.class_head = ClassHead(config)
        self.box_head = BoxHead(config)

    def loss(
        self, memory: Tensor, targets: Targets, config: CriterionConfig, totals: Totals
    ) -> Tensor:
        """How badly each token of memory (B, D, h, w) knows the object at its centre.

        The weighted sum of the class loss, a mean over tokens, and L1 and GIoU, means over objects.
        """
        assert targets.index_map is not None  # recipes ask for no tokens where there are no masks
        place = _sample_centers(targets.index_map, memory.shape[-2:]).flatten()  # Bhw
        covered = place > 0
        tokens = memory.permute(0, 2, 3, 1).flatten(0, 2).float()  # Bhw, D
        image = torch.arange(len(memory), device=memory.device).repeat_interleave(
            memory[0, 0].numel()
        )  # Bhw
        objects = (targets.starts[image] + place - 1)[covered]  # N
        nothing = self.class_head.out_features - 1
        classes = torch.full_like(place, nothing).masked_scatter(covered, targets.classes[objects])
        share = len(memory) / totals.images  # of the step
        with torch.autocast(tokens.device.type, enabled=False):
            logits, boxes = self.class_head(tokens), self.box_head(tokens[covered])
        label = F.cross_entropy(logits, classes) * share
        truth = targets.boxes[objects]  # N, 4
        # Every object counts the same, however many tokens it covers: stuff covers most of them.
        weight = 1 / objects.bincount()[objects]  # N
        l1 = (weight * box_l1(boxes, truth)).sum() / totals.objects
        giou = (weight * box_giou(boxes, truth)).sum() / totals.objects
        return config.label * label + config.l1 * l1 + config.giou * giou


def attention_loss(attention: Tensor, masks: Tensor) -> Tensor:
    """How far queries look away from their objects: minus the logarithm of the share within.

    Args:
        attention: (N, A, h, w), which sums to 1 for each of N.
        masks: (N, H, W), 0.0 or 1.0; a patch counts as within where any of its pixels does.

    Returns:
        (N,).
    """
    within = F.adaptive_max_pool2d(masks[:, None], attention.shape[-2:])  # N, 1, h, w
    return -(attention * within).flatten(1).sum(1).clamp(min=1e-6).log()


def _sample_centers(index_map: Tensor, shape: torch.Size) -> Tensor:
    """The object (B, h, w) int64 at the centre of each token's patch of an index map (B, H, W)."""
    rows, columns = (
        ((torch.arange(small, device=index_map.device) + 0.5) * (large / small)).long()
        for small, large in zip(shape, index_map.shape[1:], strict=True)
    )
    return index_map[:, rows[:, None], columns].long()


@torch.no_grad()
def place_queries_on_grid(model: Detr, scaffold: AuxiliaryHeads) -> None:
    """Start queries as positions of points, and cross-attention as a comparison of positions.

    Points are spread over the image; each group's are shifted a little. Queries and keys of the
    decoder's cross-attention start with the same projection, so that a query first reads what lies
    near its point.
    """
    more = () if scaffold.more_queries is None else scaffold.more_queries
    groups = [model.queries.weight, *more]
    for group, queries in enumerate(groups):
        queries.copy_(_grid_positions(len(queries), queries.shape[1], group / len(groups)))
    for layer in model.decoder.layers:
        attention = layer.get_submodule("cross_attention")
        query, key = attention.get_submodule("query"), attention.get_submodule("key")
        assert isinstance(query, nn.Linear)
        assert isinstance(key, nn.Linear)
        nn.init.orthogonal_(query.weight, gain=1.5)
        key.weight.copy_(query.weight)


def _grid_positions(count: int, dim: int, phase: float) -> Tensor:
    """Sine positions (count, dim) of points spread evenly over the unit square.

    They lie on a lattice of the golden ratio.
    """
    fine = 256
    index = torch.arange(count)
    x = (index * 0.6180339887 + phase) % 1
    y = (index + 0.5) / count
    table = SinePositions(dim)(torch.zeros(1, fine, fine, dtype=torch.bool))[0]  # D, fine, fine
    return table[:, (y * fine).long(), (x * fine).long()].T  # count, D
