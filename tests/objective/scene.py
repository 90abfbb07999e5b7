"""A small model, the settings of its objective, and batches of noise with objects in them."""

from __future__ import annotations

import torch

from panodetr.model.config import DetrConfig, ResNetConfig
from panodetr.model.detr import Detr
from panodetr.objective.auxiliary import AuxiliaryHeads
from panodetr.objective.config import ObjectiveConfig
from panodetr.objective.targets import Batch, Targets, Totals, count_totals

ARCHITECTURE = DetrConfig(
    backbone=ResNetConfig(
        block="basic", depths=(1, 1, 1, 1), widths=(8, 8, 16, 16), stem_width=8, norm="batch"
    ),
    num_classes=2,
    num_queries=6,
    hidden_dim=128,
    ffn_dim=32,
    encoder_layers=1,
    decoder_layers=2,
    dropout=0.0,  # so that two passes can be compared
    masks=True,
)


def make(config: ObjectiveConfig) -> tuple[Detr, AuxiliaryHeads]:
    torch.manual_seed(0)
    return Detr(ARCHITECTURE).eval(), AuxiliaryHeads(ARCHITECTURE, config)


def targets_of(*counts: int, side: int = 64) -> Targets:
    """Object n of an image covers row n of its 8 by 8 grid; classes 0 and 1 take turns."""
    height = side // 8
    index_map = torch.zeros(len(counts), side, side, dtype=torch.int16)
    boxes: list[list[float]] = []
    for image, count in enumerate(counts):
        for place in range(count):
            index_map[image, height * place : height * (place + 1)] = place + 1
            boxes.append([0.5, (place + 0.5) / 8, 1.0, 1 / 8])
    return Targets(
        classes=torch.arange(sum(counts)) % 2,
        boxes=torch.tensor(boxes).reshape(-1, 4),
        counts=counts,
        index_map=index_map,
    )


def batch_of(*counts: int) -> Batch:
    """Images 64 by 64 of noise, with as many objects each."""
    random = torch.Generator().manual_seed(2)
    pixels = torch.randn(len(counts), 3, 64, 64, generator=random)
    return Batch(pixels=pixels, padding=None, targets=targets_of(*counts))


def totals_of(counts: tuple[int, ...], config: ObjectiveConfig) -> Totals:
    return count_totals(counts, ARCHITECTURE.num_queries, config.criterion.no_object)


def part_of(batch: Batch, images: slice) -> Batch:
    numbers = range(len(batch.pixels))[images]
    own = torch.isin(batch.targets.image, torch.tensor(numbers))
    assert batch.targets.index_map is not None
    return Batch(
        pixels=batch.pixels[images],
        padding=None,
        targets=Targets(
            classes=batch.targets.classes[own],
            boxes=batch.targets.boxes[own],
            counts=batch.targets.counts[images],
            index_map=batch.targets.index_map[images],
        ),
    )
