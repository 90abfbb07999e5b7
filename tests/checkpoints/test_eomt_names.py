"""Every name of a file, in whole lists, there and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from panodetr.checkpoints.names import (
    EOMT_ORIGINAL,
    EOMT_TABLES,
    EOMT_TRANSFORMERS,
    EOMT_TRANSFORMERS_4,
    NameTable,
)
from panodetr.model.config import EomtConfig, VitConfig
from panodetr.model.eomt import Eomt

TINY = EomtConfig(
    backbone=VitConfig(hidden_dim=24, heads=2, layers=2, grid=3), num_classes=3, num_queries=5,
    query_blocks=1,
)  # fmt: skip
SWIGLU = replace(TINY, backbone=replace(TINY.backbone, swiglu=True))


def old_transformers_names(*, swiglu: bool) -> set[str]:
    return transformers_names(swiglu=swiglu, old=True)


def transformers_names(*, swiglu: bool, old: bool = False) -> set[str]:
    feed = ["fc1", "fc2"]
    if swiglu:
        feed = ["weights_in", "weights_out"] if old else ["gate_proj", "up_proj", "down_proj"]
    modules = [
        "embeddings.patch_embeddings.projection", "layernorm", "class_predictor",
        *(f"mask_head.fc{n}" for n in (1, 2, 3)),
        *(f"upscale_block.block.{n}.{part}" for n in (0, 1) for part in ("conv1", "layernorm2d")),
        *(
            f"layers.{n}.{part}"
            for n in (0, 1)
            for part in (
                "norm1", "norm2", *(f"mlp.{name}" for name in feed),
                *(f"attention.{p}_proj" for p in ("q", "k", "v", "out")),
            )
        ),
    ]  # fmt: skip
    return {
        *(f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")),
        *(f"layers.{n}.layer_scale{m}.lambda1" for n in (0, 1) for m in (1, 2)),
        *(f"upscale_block.block.{n}.conv2.weight" for n in (0, 1)),
        "embeddings.cls_token", "embeddings.register_tokens",
        "embeddings.position_embeddings.weight", "query.weight",
    }  # fmt: skip


def original_names(*, swiglu: bool) -> set[str]:
    del swiglu  # timm packs the gate and what it gates into one layer
    blocks = [f"encoder.backbone.blocks.{n}." for n in (0, 1)]
    modules = [
        "encoder.backbone.patch_embed.proj", "encoder.backbone.norm", "class_head",
        *(f"mask_head.{n}" for n in (0, 2, 4)),
        *(f"upscale.{n}.{part}" for n in (0, 1) for part in ("conv1", "norm")),
        *(
            block + part
            for block in blocks
            for part in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        ),
    ]  # fmt: skip
    return {
        *(f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")),
        *(f"{block}ls{m}.gamma" for block in blocks for m in (1, 2)),
        *(f"upscale.{n}.conv2.weight" for n in (0, 1)),
        *(f"encoder.backbone.{name}" for name in ("cls_token", "reg_token", "pos_embed")),
        "q.weight",
    }  # fmt: skip


CASES = {
    "transformers-5": (EOMT_TRANSFORMERS, transformers_names),
    "transformers-4": (EOMT_TRANSFORMERS_4, old_transformers_names),
    "original": (EOMT_ORIGINAL, original_names),
}


@pytest.mark.parametrize("config", [TINY, SWIGLU], ids=["gelu", "swiglu"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_all_names_are_there_and_lead_back(
    case: tuple[NameTable, Callable[..., set[str]]], config: EomtConfig
) -> None:
    table, names = case
    ours = Eomt(config).state_dict()
    theirs = table.from_ours(ours)
    assert theirs.keys() == names(swiglu=config.backbone.swiglu)
    back = table.to_ours(theirs, ours)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)
    assert sorted(table.known(theirs)) == sorted(theirs)


def test_the_original_has_positions_in_a_batch_of_one_and_a_prefix_while_training() -> None:
    ours = Eomt(TINY).state_dict()
    theirs = EOMT_ORIGINAL.from_ours(ours, "network.")
    assert theirs["network.encoder.backbone.pos_embed"].shape == (1, 9, 24)
    more = {"network.attn_mask_probs": torch.zeros(1), "criterion.empty_weight": torch.ones(4)}
    assert EOMT_ORIGINAL.used(theirs | more) == theirs
    assert max(EOMT_TABLES, key=lambda table: len(table.known(theirs))) is EOMT_ORIGINAL
    back = EOMT_ORIGINAL.to_ours(theirs, ours)
    assert all(torch.equal(back[key], ours[key]) for key in ours)
