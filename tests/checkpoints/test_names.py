from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
from tests.parity.weights import ORIGINALS

from panodetr.checkpoints.names import (
    EOMT_ORIGINAL,
    EOMT_TABLES,
    EOMT_TRANSFORMERS,
    EOMT_TRANSFORMERS_4,
    FACEBOOK,
    TIMM_4,
    TIMM_5_FILES,
    TORCHVISION,
    TRANSFORMERS_TABLES,
    NameTable,
    State,
    without_counters,
)
from panodetr.model.config import DetrConfig, EomtConfig, ResNetConfig, VitConfig
from panodetr.model.detr import Detr
from panodetr.model.eomt import Eomt

ALL = (FACEBOOK, *TRANSFORMERS_TABLES)
NAMES = [f"{table.source} {number}" for number, table in enumerate(ALL)]
TINY = EomtConfig(
    backbone=VitConfig(hidden_dim=24, heads=2, layers=2, grid=3), num_classes=3, num_queries=5,
    query_blocks=1,
)  # fmt: skip
SWIGLU = replace(TINY, backbone=replace(TINY.backbone, swiglu=True))


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in state.items()}


def on_meta(config: DetrConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return Detr(config).state_dict()


def lead_back(table: NameTable, theirs: State, ours: State) -> None:
    """Assert that a file's weights are ours."""
    assert sorted(table.known(theirs)) == sorted(theirs)
    back = table.to_ours(theirs, ours)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_originals_names_and_shapes_are_ours_both_ways(golden: Path, name: str) -> None:
    listed: dict[str, list[int]] = json.loads((golden / f"{name}.keys.json").read_text())
    ours = on_meta(ORIGINALS[name])
    theirs = {key: torch.empty(shape, device="meta") for key, shape in listed.items()}
    assert shapes_of(FACEBOOK.to_ours(theirs, ours)) == shapes_of(ours)
    assert shapes_of(FACEBOOK.from_ours(ours)) == listed


@pytest.mark.parametrize("table", ALL, ids=NAMES)
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_weights_go_there_and_back_unchanged(
    table: NameTable, block: Literal["basic", "bottleneck"]
) -> None:
    config = DetrConfig(
        backbone=ResNetConfig(block=block, depths=(1, 2, 1, 1), widths=(8, 8, 8, 8), norm="batch"),
        num_classes=2, num_queries=15, hidden_dim=128, ffn_dim=8, encoder_layers=1,
        decoder_layers=2, pre_norm=True, positions="learned", masks=True,
    )  # fmt: skip
    torch.manual_seed(0)
    ours = without_counters(Detr(config).state_dict())
    theirs = table.from_ours(ours)
    lead_back(table, theirs, ours)


@pytest.mark.parametrize(
    ("table", "place"),
    [
        (TIMM_4, "model.backbone.conv_encoder.model."),
        (TIMM_5_FILES, "model.backbone.conv_encoder.model."),
        (TORCHVISION, ""),
    ],
    ids=["4", "5", "classifier"],
)
def test_timms_backbone_has_torchvisions_names(golden: Path, table: NameTable, place: str) -> None:
    listed = json.loads((golden / "facebook-detr-r50-dc5.keys.json").read_text())
    body = "backbone.0.body."
    expected = {key.replace(body, place): shape for key, shape in listed.items() if body in key}
    whole = on_meta(ORIGINALS["facebook-detr-r50-dc5"])
    ours = {key: value for key, value in whole.items() if key.startswith("backbone.")}
    assert shapes_of(table.from_ours(ours)) == expected


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
    "transformers-4": (EOMT_TRANSFORMERS_4, partial(transformers_names, old=True)),
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
    lead_back(table, theirs, ours)


def test_the_original_has_positions_in_a_batch_of_one_and_a_prefix_while_training() -> None:
    ours = Eomt(TINY).state_dict()
    theirs = EOMT_ORIGINAL.from_ours(ours, "network.")
    assert theirs["network.encoder.backbone.pos_embed"].shape == (1, 9, 24)
    more = {"network.attn_mask_probs": torch.zeros(1), "criterion.empty_weight": torch.ones(4)}
    assert EOMT_ORIGINAL.used(theirs | more) == theirs
    assert max(EOMT_TABLES, key=lambda table: len(table.known(theirs))) is EOMT_ORIGINAL
    lead_back(EOMT_ORIGINAL, theirs, ours)
