"""What is learned and how fast: freezing, AdamW with the backbone's own rate, and its course."""

from __future__ import annotations

import torch
from torch import nn

from panodetr.model.detr import Detr
from panodetr.training.config import TrainConfig


def freeze(model: Detr, config: TrainConfig) -> None:
    """Let only what a run learns have gradients and be in train mode.

    Dropout in a frozen part would disturb what it has learned, and live batch norms would drift
    away from it. The backbone's stem freezes with its first stage.
    """
    every = config.learned == "all"
    model.requires_grad_(every).train(every)
    for part in filter(None, (model.attention_maps, model.mask_head)):
        part.requires_grad_(True).train()
    backbone = model.backbone
    stem = [backbone.stem_conv, backbone.stem_norm] if config.frozen_stages else []
    for part in (*stem, *backbone.stages[: config.frozen_stages]):
        part.requires_grad_(False).eval()


def make_optimizer(model: Detr, auxiliary: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; a group's `initial_lr` is its rate at the highest."""
    backbone = {p: None for p in model.backbone.parameters() if p.requires_grad}
    every = [p for part in (model, auxiliary) for p in part.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in every if p not in backbone], "initial_lr": config.learning_rate},
        {"params": [*backbone], "initial_lr": config.backbone_learning_rate},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """What the highest rate is multiplied by at a step, counted from 0.

    It rises, stays level, drops to a tenth, and falls to zero at the end: each where the run asks
    for it.
    """
    up = (step + 1) / (config.warmup + 1)
    down = (config.steps - step) / config.decay if config.decay else 1.0
    dropped = 0.1 if 0 < config.drop <= step else 1.0
    return dropped * min(1.0, up, down)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its highest rate times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
