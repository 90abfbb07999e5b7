from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.shapes import detr_shape

from panodetr.checkpoints.huggingface import read_huggingface, write_huggingface
from panodetr.checkpoints.published import (
    PUBLISHED,
    coco_detection,
    coco_panoptic,
    plain_category,
)
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointWarning
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import RESNET18, RESNET50, RESNET101, DetrConfig, ResNetConfig

# As transformers 4 wrote them when the published models were put on the hub.
VERSION_4: dict[str, Any] = {
    "activation_function": "relu", "architectures": ["DetrForSegmentation"],
    "backbone": "resnet101", "d_model": 256, "decoder_attention_heads": 8,
    "decoder_ffn_dim": 2048, "decoder_layers": 6, "dilation": False, "dropout": 0.1,
    "encoder_attention_heads": 8, "encoder_ffn_dim": 2048, "encoder_layers": 6,
    "id2label": {str(n): f"LABEL_{n}" for n in range(250)}, "is_encoder_decoder": True,
    "max_position_embeddings": 1024, "model_type": "detr", "num_hidden_layers": 6,
    "num_queries": 100, "position_embedding_type": "sine", "scale_embedding": False,
}  # fmt: skip
PREPROCESSOR_4: dict[str, Any] = {
    "do_normalize": True, "do_resize": True, "feature_extractor_type": "DetrFeatureExtractor",
    "format": "coco_panoptic", "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225], "max_size": 1333, "size": 800,
}  # fmt: skip


def read(config: dict[str, Any], preprocessor: dict[str, Any] | None = None) -> ModelSpec:
    return read_huggingface(config, preprocessor or {}, "a")


def test_the_cards_model_is_read_and_named_by_the_catalogue() -> None:
    spec = read(VERSION_4, PREPROCESSOR_4)
    assert spec.architecture == DetrConfig(backbone=RESNET101, num_classes=250, masks=True)
    assert spec.categories == coco_panoptic()
    assert spec.preprocessing == Preprocessing()
    spec = read({**VERSION_4, "model_type": "table-transformer"})
    assert detr_shape(spec.architecture).pre_norm


def test_names_in_a_configuration_win_and_coco_adds_what_it_knows_of_them() -> None:
    labels = {"0": "N/A", "1": "person", "2": "tandem", "3": "N/A"}
    categories = read({**VERSION_4, "id2label": labels}).categories
    assert categories == (coco_detection()[0], plain_category(2, "tandem"))


@pytest.mark.parametrize(
    "size", [{"height": 640, "width": 640}, {"max_height": 480, "max_width": 640}]
)
def test_a_size_that_is_not_possible_here_is_approximated_aloud(size: dict[str, int]) -> None:
    with pytest.warns(CheckpointWarning, match="keep their shape, and their long side becomes 640"):
        spec = read(VERSION_4, {**PREPROCESSOR_4, "size": size})
    assert (spec.preprocessing.short_side, spec.preprocessing.long_side) == (640, 640)


def test_names_that_begin_at_1_keep_their_indices_and_the_last_is_missed_aloud() -> None:
    with pytest.warns(CheckpointWarning, match=r"2 names.* without a place: 'nut' \(2\)"):
        spec = read({**VERSION_4, "id2label": {"1": "bolt", "2": "nut"}})
    assert spec.architecture.num_classes == 2
    assert [(one.index, one.name) for one in spec.categories] == [(1, "bolt")]


RESNET = {"model_type": "resnet", "layer_type": "basic", "depths": [2, 2, 2, 2]}
WIDTHS = {"hidden_sizes": [64, 128, 256, 512], "embedding_size": 64}
TIMM = {"model_type": "timm_backbone", "backbone": "resnet50.a1_in1k", "output_stride": 16}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dilation": True}, replace(RESNET101, dilate_last=True)),
        ({"backbone": None, "backbone_config": TIMM}, replace(RESNET50, dilate_last=True)),
        ({"backbone": None, "backbone_config": {**RESNET, **WIDTHS}}, RESNET18),
    ],
    ids=["a name and dilation", "timm's configuration", "transformers' ResNet"],
)
def test_a_backbone_is_read_in_every_form(changes: dict[str, Any], expected: ResNetConfig) -> None:
    assert detr_shape(read({**VERSION_4, **changes}).architecture).backbone == expected


@pytest.mark.parametrize(
    ("changes", "sides"),
    [
        ({}, (800, 1333)),
        ({"size": {"shortest_edge": 480, "longest_edge": 640}}, (480, 640)),
        ({"size": {"longest_edge": 1000}}, (1000, 1000)),
        ({"size": {"max_height": 480, "max_width": 480}}, (480, 480)),
        ({"size": {"shortest_edge": 800, "longest_edge": 800}}, (800, 800)),
        ({"size": 600, "max_size": 1000}, (600, 1000)),
        ({"size": {"shortest_edge": 600}, "max_size": 900}, (600, 900)),
        ({"do_resize": False}, (None, None)),
    ],
)
def test_every_form_of_the_size_is_read(
    changes: dict[str, Any], sides: tuple[int | None, int | None]
) -> None:
    expected = Preprocessing(short_side=sides[0], long_side=sides[1])
    assert read(VERSION_4, {**PREPROCESSOR_4, **changes}).preprocessing == expected
    rule = read(VERSION_4, {**PREPROCESSOR_4, **changes, "do_normalize": False}).preprocessing
    assert (rule.mean, rule.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vit"}, "model_type: invalid enum value 'vit'"),
        ({"activation_function": "tanh"}, "activation is 'tanh'; invalid enum value"),
        ({"backbone": "swin_tiny"}, "backbone is 'swin_tiny'; expected one of resnet18"),
        ({"backbone_config": {"model_type": "swin"}}, "backbone_config.model_type is 'swin'"),
        (
            {"backbone_config": {"model_type": "resnet", "downsample_in_bottleneck": True}},
            "downsample_in_bottleneck is true",
        ),
        (
            {"backbone_config": {"model_type": "resnet", "hidden_act": "gelu"}},
            "hidden_act is 'gelu'; expected 'relu'",
        ),
        (
            {"backbone_config": {"model_type": "resnet", "depths": [1, 2]}},
            "depths: expected array of length 4",
        ),
        ({"d_model": "256"}, "hidden_dim is '256'; expected int, got str"),
        ({"decoder_attention_heads": 6}, r"divide by heads \(8\), decoder_heads \(6\) and 4"),
        ({"id2label": {"1": "a"}}, "id2label has 1 names, none below 1"),
        ({"id2label": {"a": "b"}}, "id2label has 1 names, none below 1"),
        ({"id2label": []}, "id2label: expected object . null, got array"),
        ({"size": {"height": 640}}, "expected shortest_edge and longest_edge"),
        ({"rescale_factor": 1.0}, "does not rescale by 1/255"),
        ({"image_mean": 0.5}, r"preprocessor_config\.json: image_mean: expected array, got float"),
    ],
)
def test_what_cannot_be_built_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read({**VERSION_4, **changes}, {**PREPROCESSOR_4, **changes})


def reread(spec: ModelSpec, **changes: Any) -> ModelSpec:
    config, preprocessor = json.loads(json.dumps(write_huggingface(spec)))
    return read_huggingface({**config, **changes}, preprocessor, spec.name)


TUNED = ModelSpec(
    name="tuned",
    architecture=DetrConfig(backbone=RESNET18, num_classes=4, positions="learned", dropout=0.0),
    categories=(
        plain_category(1, "cell"),
        replace(plain_category(3, "membrane"), is_thing=False, id=40, color=(1, 2, 3)),
    ),
    preprocessing=Preprocessing(
        short_side=None, long_side=None, enlarge=1.5, tile=256, tile_overlap=32, mean=(0, 0, 0),
        std=(1, 1, 1),
    ),
    threshold=0.25,
)  # fmt: skip


def test_published_and_tuned_models_read_back_unless_classes_were_renamed() -> None:
    for model in PUBLISHED:
        if not isinstance(model.architecture, DetrConfig) or model.architecture.conditional:
            continue
        spec = ModelSpec(
            name="a", architecture=model.architecture, categories=model.categories,
            preprocessing=model.preprocessing,
        )  # fmt: skip
        assert reread(spec) == spec
    assert reread(TUNED) == TUNED
    labels = {"0": "a", "1": "b", "2": "c", "3": "d"}
    assert [c.name for c in reread(TUNED, id2label=labels).categories] == ["a", "b", "c", "d"]


UNKNOWN = replace(RESNET50, depths=(1, 1, 1, 1), dilate_last=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": replace(RESNET50, stem_pool=False)}, "stem_pool is False"),
        ({"backbone": replace(RESNET50, norm="group")}, "norm is 'group'"),
        ({"backbone": UNKNOWN}, "none of resnet18"),
        ({"pre_norm": True, "masks": True}, "pre_norm with a mask head"),
    ],
)
def test_what_transformers_has_no_place_for_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_huggingface(replace(TUNED, architecture=replace(TUNED.architecture, **changes)))
