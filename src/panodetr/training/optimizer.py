"""What is learned and how fast: freezing, AdamW with the backbone's own rates, and their course."""

from __future__ import annotations

import torch
from torch import nn

from panodetr.model.detr import Detr
from panodetr.model.eomt import Eomt
from panodetr.model.network import Network
from panodetr.training.config import TrainConfig


def freeze(model: Network, config: TrainConfig) -> None:
    """Let only what a run learns have gradients and be in train mode.

    Dropout in a frozen part would disturb what it has learned, and live batch norms would drift
    away from it. The backbone's stem freezes with its first stage.
    """
    every = config.learned == "all"
    model.requires_grad_(every).train(every)
    if isinstance(model, Detr):
        for part in filter(None, (model.attention_maps, model.mask_head)):
            part.requires_grad_(True).train()
    for part in (part for stage in model.stages()[: config.frozen_stages] for part in stage):
        part.requires_grad_(False)
        if isinstance(part, nn.Module):
            part.eval()


def make_optimizer(model: Network, auxiliary: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; a group's `initial_lr` is its rate at the highest."""
    slower = _depths(model, config)
    every = [p for part in (model, auxiliary) for p in part.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in every if p not in slower], "initial_lr": config.learning_rate},
        *(
            {
                "params": [p for p, below in slower.items() if below == depth and p.requires_grad],
                "initial_lr": config.backbone_learning_rate * config.layer_decay**depth,
                "backbone": True,
            }
            for depth in sorted(set(slower.values()))
        ),
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _depths(model: Network, config: TrainConfig) -> dict[nn.Parameter, int]:
    """How many blocks there are from each of the backbone's parameters to the last block.

    The patches and positions count as of the first block; the last norm as of the last one. All
    are 0 where rates do not decay with depth.
    """
    depths = dict.fromkeys(model.backbone.parameters(), 0)
    if config.layer_decay == 1 or not isinstance(model, Eomt):
        return depths
    vit = model.backbone
    last = len(vit.blocks) - 1
    depths = dict.fromkeys(depths, last) | dict.fromkeys(vit.norm.parameters(), 0)
    for number, block in enumerate(vit.blocks):
        depths |= dict.fromkeys(block.parameters(), last - number)
    return depths


def learning_rate_factor(step: int, config: TrainConfig, *, backbone: bool = False) -> float:
    """What the highest rate is multiplied by at a step, counted from 0.

    It rises, stays level, drops to a tenth, and falls to zero at the end: each where the run asks
    for it. The backbone's rises only when the other has risen, if it has a warm-up of its own.
    """
    begin, warmup = 0, config.warmup
    if backbone and config.backbone_warmup:
        begin, warmup = config.warmup, config.backbone_warmup
    up = max(0.0, (step - begin + 1) / (warmup + 1))
    down = (config.steps - step) / config.decay if config.decay else 1.0
    dropped = 0.1 if 0 < config.drop <= step else 1.0
    left = max(1, config.steps - begin - warmup)
    fallen = min(1.0, max(0, step - begin - warmup) / left)
    return dropped * min(1.0, up, down) * (1 - fallen) ** config.poly


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, config: TrainConfig) -> None:
    """Give every group its highest rate times the step's factor."""
    for group in optimizer.param_groups:
        factor = learning_rate_factor(step, config, backbone=group.get("backbone", False))
        group["lr"] = group["initial_lr"] * factor
