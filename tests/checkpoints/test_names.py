from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from panodetr.checkpoints.names import (
    FACEBOOK,
    RESNET_4,
    RESNET_5,
    TIMM_4,
    TIMM_5_FILES,
    TRANSFORMERS_TABLES,
    NameTable,
    best_table,
)
from panodetr.checkpoints.weights import shapes_of
from panodetr.errors import CheckpointError
from panodetr.model.config import (
    RESNET18,
    DetrConfig,
    ResNetConfig,
    detr_resnet50,
    detr_resnet50_dc5,
    detr_resnet50_panoptic,
)
from panodetr.model.detr import Detr

ALL = (FACEBOOK, *TRANSFORMERS_TABLES)
NAMES = [f"{table.source} {number}" for number, table in enumerate(ALL)]
TABLE_TRANSFORMER = DetrConfig(backbone=RESNET18, num_classes=2, num_queries=15, pre_norm=True)
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
def test_weights_go_there_and_back_unchanged(
    table: NameTable, block: Literal["basic", "bottleneck"]
) -> None:
    config = replace(
        TABLE_TRANSFORMER,
        backbone=ResNetConfig(block=block, depths=(1, 2, 1, 1), widths=(8, 8, 8, 8)),
        hidden_dim=128,
        ffn_dim=8,
        encoder_layers=1,
        decoder_layers=2,
        positions="learned",
        masks=True,
    )
    torch.manual_seed(0)
    ours = Detr(config).state_dict()
    back = table.to_ours(table.from_ours(ours))
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)


def test_fused_projections_are_queries_keys_and_values_in_this_order() -> None:
    fused = torch.arange(12.0).view(6, 2)
    ours = FACEBOOK.to_ours({"transformer.encoder.layers.3.self_attn.in_proj_weight": fused})
    place = "encoder.layers.3.attention"
    assert torch.equal(ours[f"{place}.query.weight"], fused[:2])
    assert torch.equal(ours[f"{place}.key.weight"], fused[2:4])
    assert torch.equal(ours[f"{place}.value.weight"], fused[4:])


@pytest.mark.parametrize("table", ALL, ids=NAMES)
def test_counters_of_batch_norms_are_left_out(table: NameTable) -> None:
    norm = table.from_ours({"backbone.stem_norm.bias": torch.ones(4)})
    (key,) = norm
    counter = key.replace(".bias", ".num_batches_tracked")
    assert table.to_ours({**norm, counter: torch.tensor(3)}).keys() == {"backbone.stem_norm.bias"}
    assert not table.from_ours({"backbone.stem_norm.num_batches_tracked": torch.tensor(3)})


@pytest.mark.parametrize(
    ("table", "keys", "message"),
    [
        (RESNET_4, ("model.fpn.weight", "m.x"), r"a\.pth holds 2 .*: 'model\.fpn\.weight', 'm\.x'"),
        (FACEBOOK, ("class_embed.bias", "detr.class_embed.bias"), r"both 'detr\.class_embed\.bias"),
        (
            FACEBOOK,
            ("transformer.encoder.layers.0.self_attn.in_proj_bias",),
            r"a\.pth: .*in_proj_bias' is \[4\]",
        ),
    ],
    ids=["unknown names", "two names of one weight", "not three projections"],
)
def test_names_that_cannot_be_meant_are_listed_as_the_file_has_them(
    table: NameTable, keys: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        table.to_ours({key: torch.ones(4) for key in keys}, "a.pth")


@pytest.mark.parametrize("table", [FACEBOOK, TIMM_4, RESNET_4, RESNET_5], ids=lambda t: t.source)
def test_a_file_is_recognised_by_its_names(table: NameTable) -> None:
    keys = table.from_ours(on_meta(detr_resnet50_panoptic()))
    assert best_table(ALL, keys) is table


def test_names_of_another_network_are_recognised_as_none() -> None:
    assert best_table(ALL, ["vit.embeddings.weight", "pooler.bias"]) is None


# The references: transformers itself, its own list of renamings, and torchvision's names as the
# original has them.


def transformers_model(masks: bool, **options: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.ResNetConfig(
        depths=[3, 4, 6, 3], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    kind = transformers.DetrForSegmentation if masks else transformers.DetrForObjectDetection
    with torch.device("meta"):
        return kind(transformers.DetrConfig(backbone_config=backbone, **options))


@pytest.mark.parity
@pytest.mark.parametrize(
    ("config", "masks", "options"),
    [
        (detr_resnet50(), False, {"num_labels": 91}),
        (detr_resnet50_panoptic(), True, {"num_labels": 250}),
        (
            replace(detr_resnet50(), positions="learned"),
            False,
            {"num_labels": 91, "position_embedding_type": "learned"},
        ),
    ],
    ids=["detection", "panoptic", "learned positions"],
)
def test_names_and_shapes_are_those_of_transformers_5(
    config: DetrConfig, masks: bool, options: dict[str, Any]
) -> None:
    reference = shapes_of(transformers_model(masks, **options).state_dict())
    assert shapes_of(RESNET_5.from_ours(on_meta(config))) == reference


@pytest.mark.parity
def test_names_and_shapes_are_those_of_the_table_transformer() -> None:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.ResNetConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic"
    )
    with torch.device("meta"):
        model = transformers.TableTransformerForObjectDetection(
            transformers.TableTransformerConfig(
                backbone_config=backbone, use_timm_backbone=False, num_queries=15, num_labels=2
            )
        )
    ours = on_meta(TABLE_TRANSFORMER)
    assert shapes_of(RESNET_4.from_ours(ours)) == shapes_of(model.state_dict())


@pytest.mark.parity
@pytest.mark.parametrize("masks", [False, True])
def test_names_of_version_4_become_those_of_5_by_transformers_own_list(masks: bool) -> None:
    reference = transformers_model(masks, num_labels=250).state_dict().keys()
    from transformers import conversion_mapping as mapping

    lists: Any = mapping._build_checkpoint_conversion_mapping()  # pyright: ignore[reportPrivateUsage]
    renamings = [*lists["DetrModel"], *(lists["DetrForSegmentation"] if masks else ())]

    def renamed(key: str) -> str:
        for renaming in renamings:
            (old,), (new,) = renaming.source_patterns, renaming.target_patterns
            key = re.sub(old, new, key)
        return key

    ours = on_meta(replace(detr_resnet50_panoptic(), masks=masks))
    assert {renamed(key) for key in RESNET_4.from_ours(ours)} == set(reference)


@pytest.mark.parametrize("table", [TIMM_4, TIMM_5_FILES], ids=["4", "5"])
def test_timms_backbone_has_torchvisions_names(golden: Path, table: NameTable) -> None:
    listed: dict[str, list[int]] = json.loads(
        (golden / "facebook-detr-r50-dc5.keys.json").read_text()
    )
    place = "model.backbone.conv_encoder.model."
    expected = {
        key.replace("backbone.0.body.", place): tuple(shape)
        for key, shape in listed.items()
        if key.startswith("backbone.0.body.")
    }
    theirs = shapes_of(table.from_ours(on_meta(detr_resnet50_dc5())))
    assert {key: shape for key, shape in theirs.items() if key.startswith(place)} == expected
