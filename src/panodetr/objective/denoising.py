"""Denoising (DN-DETR, Li et al., 2022): queries made from noisy truth learn to find it again.

Matching assigns another object to a query from step to step, early on. A query made from an
object's class and box, both disturbed, has its object given, so the decoder learns from the first
step on what to do with a query that knows roughly where to look. These queries are decoded beside
the model's own, which see nothing of them; all that is kept in the end is a better decoder.

In a plain DETR one vector says both what a query looks for and where, so the embeddings of class
and box are added up to one.

Letters: L decoder layers, B images, G groups, T objects of the fullest image, K objects of the
batch, N = KG noisy objects, D channels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from panodetr.objective.losses import box_giou, box_l1, classification_loss

if TYPE_CHECKING:
    from panodetr.model.config import DetrConfig
    from panodetr.model.detr import Detr
    from panodetr.model.outputs import Encoded
    from panodetr.objective.criterion import CriterionConfig, Totals
    from panodetr.training.batch import Targets

BOX_NOISE = 0.4
"""How far a box's centre may go, in halves of its size, and its size may change, as a fraction."""

CLASS_NOISE = 0.2
"""How often a class is drawn at random."""


class Denoiser(nn.Module):
    """Embeddings of classes and boxes: query embeddings of objects."""

    def __init__(self, config: DetrConfig, groups: int) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.groups = groups
        self.classes = nn.Embedding(config.num_classes, dim)
        self.boxes = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, classes: Tensor, boxes: Tensor) -> Tensor:
        """Query embeddings (N, D) of classes (N,) and boxes (N, 4), cxcywh in fractions."""
        return self.classes(classes) + self.boxes(_waves(boxes, self.classes.embedding_dim))


def denoising_loss(
    model: Detr,
    denoiser: Denoiser,
    encoded: Encoded,
    targets: Targets,
    config: CriterionConfig,
    totals: Totals,
) -> Tensor:
    """How badly noisy objects are found again: the paper's losses, a mean over the groups."""
    groups, images = denoiser.groups, len(targets.counts)
    objects = torch.arange(len(targets.classes), device=targets.classes.device).repeat(groups)  # N
    group = torch.arange(groups, device=objects.device).repeat_interleave(len(targets.classes))  # N
    image = targets.image[objects]  # N
    place = objects - targets.starts[image]  # N
    classes, truth = targets.classes[objects], targets.boxes[objects]  # N and N, 4

    embedded = denoiser(*add_noise(classes, truth, denoiser.classes.num_embeddings))  # N, D
    widest = max(1, *targets.counts)
    queries = embedded.new_zeros((images, groups, widest, embedded.shape[-1]))
    queries = queries.index_put((image, group, place), embedded)  # B, G, T, D
    counts = torch.tensor(targets.counts, device=objects.device)
    absent = torch.arange(widest, device=objects.device) >= counts[:, None]  # B, T
    absent[:, 0] = False  # an image without objects needs something to read, lest it reads NaN
    states = model.decode(encoded, queries, absent)  # L, B, GT, D
    states = states.unflatten(2, (groups, widest))[:, image, group, place].float()  # L, N, D

    with torch.autocast(states.device.type, enabled=False):
        logits, boxes = model.class_head(states), model.box_head(states)
        label = classification_loss(logits, classes.expand(len(logits), -1), config.no_object)
        l1, giou = box_l1(boxes, truth), box_giou(boxes, truth.expand_as(boxes))  # L, N
    loss = config.label * label.sum() + config.l1 * l1.sum() + config.giou * giou.sum()
    return loss / (totals.objects * groups)


def add_noise(classes: Tensor, boxes: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Disturb classes (N,) and boxes (N, 4), cxcywh in fractions of the image.

    A centre stays within its box, and a box within the image's fractions.
    """
    drawn = torch.randint_like(classes, num_classes)
    kept = torch.rand(classes.shape, device=classes.device) >= CLASS_NOISE
    center, size = boxes.split(2, dim=-1)
    shift = BOX_NOISE * (2 * torch.rand_like(center) - 1) * size / 2
    scale = 1 + BOX_NOISE * (2 * torch.rand_like(size) - 1)
    noisy = torch.cat((center + shift, size * scale), dim=-1)
    return torch.where(kept, classes, drawn), noisy.clamp(0, 1)


def _waves(boxes: Tensor, dim: int) -> Tensor:
    """Sines and cosines (N, 2 * dim) of a box's four numbers (N, 4), as image positions have."""
    steps = torch.arange(dim // 4, dtype=torch.float32, device=boxes.device)
    angles = 2 * math.pi * boxes[..., None] / 10000 ** (4 * steps / dim)  # N, 4, dim/4
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(-2)  # N, 2 * dim
