"""Models of transformers, small ones, and ours with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from panodetr import compat

CLASSES, QUERIES, LAYERS = 6, 9, 2
MODELS = ("DetrForObjectDetection", "DetrForSegmentation")


def their_config(**options: Any) -> Any:
    """A configuration of transformers, with a hidden width of 64 and a backbone of odd widths."""
    library: Any = transformers  # its configurations' options are untyped
    backbone = library.ResNetConfig(
        num_channels=options.get("num_channels", 3),
        depths=[1, 1, 2, 1],
        embedding_size=8,
        hidden_sizes=options.pop("hidden_sizes", [10, 20, 30, 40]),
        out_features=options.pop("out_features", ["stage2", "stage3", "stage4"]),
        layer_type=options.pop("layer_type", "bottleneck"),
    )
    usual: dict[str, Any] = {
        "backbone_config": backbone,
        "num_labels": CLASSES,
        "num_queries": QUERIES,
        "d_model": 64,
        "encoder_layers": LAYERS,
        "decoder_layers": LAYERS,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "dropout": 0.0,
    }
    return library.DetrConfig(**usual | options)


@torch.no_grad()
def their_model(name: str = "DetrForSegmentation", **options: Any) -> Any:
    """A model of transformers whose norms do something and whose queries differ."""
    torch.manual_seed(0)
    model = getattr(transformers, name)(their_config(**options)).eval()
    for key, value in [*model.named_buffers(), *model.named_parameters()]:
        if key.endswith(("running_mean", "bias")):
            value.copy_(torch.randn_like(value) * 0.1)
        elif key.endswith("running_var"):
            value.copy_(torch.rand_like(value) + 0.5)
        elif "query_position_embeddings" in key:
            value.mul_(100)
    return model


def pair(folder: Path, name: str = "DetrForSegmentation", **options: Any) -> tuple[Any, Any]:
    """Ours and theirs, through a folder that theirs has saved."""
    theirs = their_model(name, **options)
    theirs.save_pretrained(folder)
    return getattr(compat, name).from_pretrained(folder), theirs


def padded_batch(*, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Two images in one batch, the second 40 by 70 within 64 by 96, and their mask."""
    random = torch.Generator().manual_seed(1)
    pixels, mask = torch.randn(2, 3, 64, 96, generator=random), torch.ones(2, 64, 96).long()
    mask[1, 40:], mask[1, :, 70:] = 0, 0
    return (pixels * mask[:, None]).to(dtype), mask


def labels_of(*counts: int, dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    """Labels as a processor makes them, of so many objects each, whose masks overlap."""
    random = torch.Generator().manual_seed(2)
    return [
        {
            "class_labels": torch.arange(count) % CLASSES,
            "boxes": (torch.rand(count, 4, generator=random) * 0.4 + 0.2).to(dtype),
            "masks": (torch.rand(count, 64, 96, generator=random) > 0.5).to(torch.uint8),
            "image_id": torch.tensor([number]),
            "area": torch.ones(count),
            "keypoints": torch.zeros(count, 3),
        }
        for number, count in enumerate(counts)
    ]


def without_dropout(model: nn.Module) -> nn.Module:
    """Turn dropout off that a configuration has no word for."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return model
