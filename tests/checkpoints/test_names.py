from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch

from panodetr.checkpoints.load import find_table
from panodetr.checkpoints.names import (
    FACEBOOK,
    RESNET_4,
    RESNET_5,
    TIMM_4,
    TIMM_5_FILES,
    TORCHVISION,
    TRANSFORMERS_TABLES,
    NameTable,
)
from panodetr.checkpoints.weights import Weights, shapes_of
from panodetr.errors import CheckpointError
from panodetr.model.config import (
    DetrConfig,
    ResNetConfig,
    detr_resnet50_dc5,
    detr_resnet50_panoptic,
)
from panodetr.model.detr import Detr

ALL = (FACEBOOK, *TRANSFORMERS_TABLES)
NAMES = [f"{table.source} {number}" for number, table in enumerate(ALL)]
COUNTER = ".num_batches_tracked"
GOLDEN = {
    "facebook-detr-r50-dc5": detr_resnet50_dc5(),
    "facebook-detr-r50-panoptic": detr_resnet50_panoptic(),
}


def on_meta(config: DetrConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return Detr(config).state_dict()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_originals_names_and_shapes_are_ours_both_ways(golden: Path, name: str) -> None:
    listed: dict[str, list[int]] = json.loads((golden / f"{name}.keys.json").read_text())
    ours = on_meta(GOLDEN[name])
    theirs = {key: torch.empty(shape, device="meta") for key, shape in listed.items()}
    assert shapes_of(FACEBOOK.to_ours(theirs)) == shapes_of(ours)
    assert {k: list(s) for k, s in shapes_of(FACEBOOK.from_ours(ours)).items()} == listed


@pytest.mark.parametrize("table", ALL, ids=NAMES)
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_weights_go_there_and_back_unchanged_without_counters(
    table: NameTable, block: Literal["basic", "bottleneck"]
) -> None:
    config = DetrConfig(
        backbone=ResNetConfig(block=block, depths=(1, 2, 1, 1), widths=(8, 8, 8, 8), norm="batch"),
        num_classes=2, num_queries=15, hidden_dim=128, ffn_dim=8, encoder_layers=1,
        decoder_layers=2, pre_norm=True, positions="learned", masks=True,
    )  # fmt: skip
    torch.manual_seed(0)
    ours = Detr(config).state_dict()
    theirs = table.from_ours(ours)
    means = [key for key in theirs if key.endswith(".running_mean")]
    counters = {key.replace(".running_mean", COUNTER): torch.tensor(3) for key in means}
    assert not any(key.endswith(COUNTER) for key in theirs)
    back = table.to_ours({**theirs, **counters})
    assert back.keys() == {key for key in ours if not key.endswith(COUNTER)}
    assert all(torch.equal(back[key], ours[key]) for key in back)


@pytest.mark.parametrize(
    ("table", "keys", "message"),
    [
        (RESNET_4, ("model.fpn.weight", "m.x"), r"a\.pth holds 2 .*: 'model\.fpn\.weight', 'm\.x'"),
        (FACEBOOK, ("transformer.encoder.layers.*.norm.weight",), r"a\.pth holds 1 .*\.layers\.\*"),
        (FACEBOOK, ("class_embed.bias", "detr.class_embed.bias"), r"both 'detr\.class_embed\.bias"),
        (
            FACEBOOK,
            ("transformer.encoder.layers.0.self_attn.in_proj_bias",),
            r"a\.pth: .*in_proj_bias' is \[4\]",
        ),
    ],
    ids=["unknown names", "a star", "two names of one weight", "not three projections"],
)
def test_names_that_cannot_be_meant_are_listed_as_the_file_has_them(
    table: NameTable, keys: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        table.to_ours({key: torch.ones(4) for key in keys}, "a.pth")


@pytest.mark.parametrize("table", [FACEBOOK, TIMM_4, RESNET_4, RESNET_5], ids=lambda t: t.source)
def test_a_file_is_recognised_by_its_names(table: NameTable) -> None:
    shapes = shapes_of(table.from_ours(on_meta(detr_resnet50_panoptic())))
    assert find_table(Weights(Path("a.pth"), shapes, dict), ALL) is table


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
    theirs = shapes_of(table.from_ours(ours))
    assert {key: list(shape) for key, shape in theirs.items()} == expected
