from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch

from panodetr.checkpoints.names import (
    FACEBOOK,
    TIMM_4,
    TIMM_5_FILES,
    TORCHVISION,
    TRANSFORMERS_TABLES,
    NameTable,
    without_counters,
)
from panodetr.model.config import (
    DetrConfig,
    ResNetConfig,
    detr_resnet50_dc5,
    detr_resnet50_panoptic,
)
from panodetr.model.detr import Detr

ALL = (FACEBOOK, *TRANSFORMERS_TABLES)
NAMES = [f"{table.source} {number}" for number, table in enumerate(ALL)]
GOLDEN = {
    "facebook-detr-r50-dc5": detr_resnet50_dc5(),
    "facebook-detr-r50-panoptic": detr_resnet50_panoptic(),
}


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in state.items()}


def on_meta(config: DetrConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return Detr(config).state_dict()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_originals_names_and_shapes_are_ours_both_ways(golden: Path, name: str) -> None:
    listed: dict[str, list[int]] = json.loads((golden / f"{name}.keys.json").read_text())
    ours = on_meta(GOLDEN[name])
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
    assert len(table.known(theirs)) == len(theirs)
    back = table.to_ours(theirs, ours)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in back)


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
    ours = {k: v for k, v in on_meta(detr_resnet50_dc5()).items() if k.startswith("backbone.")}
    assert shapes_of(table.from_ours(ours)) == expected
