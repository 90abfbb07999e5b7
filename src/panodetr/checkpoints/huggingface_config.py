"""`config.json` and `preprocessor_config.json` of transformers, and back.

What transformers has no field for (stuff or thing, colours, ids, the threshold, tiles) is kept
under the key "panodetr", which transformers carries along unread.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias, cast

from panodetr.checkpoints.coco import categories_by_count, coco_panoptic, plain_category
from panodetr.checkpoints.fields import from_json, scalar
from panodetr.checkpoints.infer import RESNETS
from panodetr.checkpoints.spec import ModelSpec
from panodetr.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from panodetr.model.config import DetrConfig, ResNetConfig
from panodetr.results.types import Category

Json: TypeAlias = Mapping[str, Any]

MODEL_TYPES = ("detr", "table-transformer")
EXTRAS = "panodetr"
UNUSED = "N/A"  # what transformers' configurations call an index without a class
_NO_LIMIT = 1_000_000  # pixels of the long side, where transformers wants a number
_PLAIN_LABEL = re.compile(r"LABEL_\d+")


def read_huggingface(
    config: Json, preprocessor: Json | None, *, name: str, masks: bool
) -> ModelSpec:
    """Understand a configuration of transformers, version 4 or 5.

    Args:
        config: `config.json`.
        preprocessor: `preprocessor_config.json`; None takes DETR's usual preprocessing.
        name: what to call the model.
        masks: whether the weights have a mask head.

    Raises:
        ValueError: it is no DETR, or one that cannot be built here; the message names the key.
    """
    if config.get("model_type") not in MODEL_TYPES:
        raise ValueError(f"model_type is {config.get('model_type')!r}; expected detr")
    for key, usual in (("activation_function", "relu"), ("num_channels", 3)):
        if config.get(key, usual) != usual:
            raise ValueError(f"{key} is {config[key]!r}; this DETR has only {usual!r}")
    labels = _labels(config)
    architecture = DetrConfig(
        backbone=_read_backbone(config),
        num_classes=len(labels),
        num_queries=_whole(config, "num_queries", 100),
        hidden_dim=_whole(config, "d_model", 256),
        heads=_same(config, "attention_heads", 8),
        ffn_dim=_same(config, "ffn_dim", 2048),
        encoder_layers=_whole(config, "encoder_layers", 6),
        decoder_layers=_whole(config, "decoder_layers", 6),
        dropout=scalar(float, config.get("dropout", 0.1), "dropout"),
        pre_norm=config["model_type"] == "table-transformer",
        positions="learned" if config.get("position_embedding_type") == "learned" else "sine",
        masks=masks,
    )
    spec = ModelSpec(
        name=name,
        architecture=architecture,
        categories=_categories(labels),
        preprocessing=_read_preprocessing(preprocessor or {}),
    )
    return _with_extras(spec, config.get(EXTRAS), labels)


def write_huggingface(spec: ModelSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Describe a model as transformers does: `config.json` and `preprocessor_config.json`.

    Raises:
        ValueError: transformers has no such model; the message names the field.
    """
    shape = spec.architecture
    if shape.pre_norm and shape.masks:
        raise ValueError("architecture.pre_norm with a mask head; transformers has either")
    if shape.pre_norm:
        model_type, kind = "table-transformer", "TableTransformerForObjectDetection"
    else:
        model_type, kind = "detr", f"DetrFor{'Segmentation' if shape.masks else 'ObjectDetection'}"
    labels = dict.fromkeys(range(shape.num_classes), UNUSED)
    labels.update({category.index: category.name for category in spec.categories})
    tiles = spec.preprocessing
    config = {
        "architectures": [kind],
        "model_type": model_type,
        **_write_backbone(shape.backbone),
        "activation_function": "relu",
        "d_model": shape.hidden_dim,
        "num_queries": shape.num_queries,
        "encoder_layers": shape.encoder_layers,
        "decoder_layers": shape.decoder_layers,
        "encoder_attention_heads": shape.heads,
        "decoder_attention_heads": shape.heads,
        "encoder_ffn_dim": shape.ffn_dim,
        "decoder_ffn_dim": shape.ffn_dim,
        "dropout": shape.dropout,
        "attention_dropout": shape.dropout,
        "is_encoder_decoder": True,
        "position_embedding_type": shape.positions,
        "id2label": {str(index): label for index, label in labels.items()},
        "label2id": {label: index for index, label in labels.items()},
        EXTRAS: {
            "categories": [dataclasses.asdict(category) for category in spec.categories],
            "threshold": spec.threshold,
            "duplicate_iou": spec.duplicate_iou,
            "single_component": spec.single_component,
            "enlarge": tiles.enlarge,
            "tile": tiles.tile,
            "tile_overlap": tiles.tile_overlap,
        },
    }
    return config, _write_preprocessing(tiles, masks=shape.masks)


def uses_timm(backbone: ResNetConfig) -> bool:
    """Tell whether transformers takes this backbone from timm: its own ResNet has no dilation."""
    return backbone.dilate_last


def _labels(config: Json) -> list[str]:
    """List the names of the classes; transformers leaves out its default, two plain labels."""
    given = config.get("id2label")
    if given is None:
        count = _whole(config, "num_labels", 2)
        return [f"LABEL_{index}" for index in range(count)]
    if not isinstance(given, dict) or not given:
        raise ValueError(f"id2label is {given!r}; expected the names of the classes by number")
    named = cast("dict[str, object]", given)
    try:
        return [str(named[str(index)]) for index in range(len(named))]
    except KeyError as error:
        raise ValueError(f"id2label has {len(named)} names but none for {error}") from error


def _categories(labels: list[str]) -> tuple[Category, ...]:
    """Name the classes; the catalogue of COCO says what names and numbers alone do not."""
    known = {category.index: category for category in coco_panoptic()}
    if all(_PLAIN_LABEL.fullmatch(label) for label in labels):
        return categories_by_count(len(labels))
    used = [(index, label) for index, label in enumerate(labels) if label != UNUSED]
    return tuple(
        known[index]
        if index in known and known[index].name == label
        else plain_category(index, label)
        for index, label in used
    )


def _with_extras(spec: ModelSpec, extras: object, labels: list[str]) -> ModelSpec:
    """Add what this package kept, unless the names were changed since."""
    if not isinstance(extras, dict):
        return spec
    kept = cast("dict[str, Any]", extras)
    rows = enumerate(cast("list[object]", kept.get("categories", [])))
    categories = tuple(from_json(Category, row, f"{EXTRAS}.categories[{i}]") for i, row in rows)
    if {category.index: category.name for category in categories} != {
        index: label for index, label in enumerate(labels) if label != UNUSED
    }:
        return spec
    tiles = replace(
        spec.preprocessing,
        enlarge=scalar(float, kept.get("enlarge", 1.0), f"{EXTRAS}.enlarge"),
        tile=kept.get("tile"),
        tile_overlap=kept.get("tile_overlap", 0),
    )
    threshold = scalar(float, kept.get("threshold", spec.threshold), f"{EXTRAS}.threshold")
    return replace(
        spec,
        categories=categories,
        preprocessing=tiles,
        threshold=threshold,
        duplicate_iou=kept.get("duplicate_iou"),
        single_component=scalar(
            bool, kept.get("single_component", False), f"{EXTRAS}.single_component"
        ),
    )


def _read_backbone(config: Json) -> ResNetConfig:
    """Understand the backbone: a name of timm's, or a configuration of transformers' ResNet."""
    given = config.get("backbone_config")
    inner = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    if inner.get("model_type") == "resnet":
        return _read_resnet(inner)
    if inner and inner.get("model_type") != "timm_backbone":
        raise ValueError(
            f"backbone_config.model_type is {inner.get('model_type')!r}; expected resnet"
        )
    name = str(inner.get("backbone") or config.get("backbone") or "resnet50")
    resnet = RESNETS.get(name.split(".")[0])  # timm appends how the weights were trained
    if resnet is None:
        raise ValueError(f"backbone is {name!r}; expected one of {', '.join(RESNETS)}")
    dilated = bool(config.get("dilation")) or inner.get("output_stride") == 16
    return replace(resnet, dilate_last=dilated)


def _read_resnet(inner: Json) -> ResNetConfig:
    for key in ("downsample_in_first_stage", "downsample_in_bottleneck"):
        if inner.get(key):
            raise ValueError(f"backbone_config.{key} is true; this backbone has its strides fixed")
    block = inner.get("layer_type", "bottleneck")
    depths = tuple(inner.get("depths", (3, 4, 6, 3)))
    channels = tuple(inner.get("hidden_sizes", (256, 512, 1024, 2048)))
    if block not in ("basic", "bottleneck") or len(depths) != 4 or len(channels) != 4:
        raise ValueError(f"backbone_config is {block!r}, {depths}, {channels}; expected 4 stages")
    expansion = 4 if block == "bottleneck" else 1
    a, b, c, d = (int(width) // expansion for width in channels)
    return ResNetConfig(
        block=block,
        depths=depths,
        widths=(a, b, c, d),
        stem_width=int(inner.get("embedding_size", 64)),
    )


def _write_backbone(backbone: ResNetConfig) -> dict[str, Any]:
    usual = ResNetConfig()
    for key in ("strides", "stem_stride", "stem_pool"):
        if getattr(backbone, key) != getattr(usual, key):
            raise ValueError(
                f"backbone.{key} is {getattr(backbone, key)}; transformers' ResNet has only "
                f"{getattr(usual, key)}"
            )
    if backbone.norm == "group":
        raise ValueError("backbone.norm is 'group'; transformers' DETR has only frozen batch norms")
    if uses_timm(backbone):
        name = resnet_name(replace(backbone, dilate_last=False))
        return {"use_timm_backbone": True, "backbone": name, "dilation": True}
    return {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "dilation": False,
        "backbone_config": {
            "model_type": "resnet",
            "layer_type": backbone.block,
            "depths": list(backbone.depths),
            "embedding_size": backbone.stem_width,
            "hidden_sizes": list(backbone.stage_channels),
            "out_features": [f"stage{stage}" for stage in range(1, 5)],
        },
    }


def resnet_name(backbone: ResNetConfig) -> str:
    """Name a backbone as torchvision, timm and the original do.

    Raises:
        ValueError: they have no such network.
    """
    plain = replace(backbone, norm="frozen", dilate_last=False)
    for name, resnet in RESNETS.items():
        if resnet == plain:
            return name
    raise ValueError(f"the backbone is none of {', '.join(RESNETS)}")


def _read_preprocessing(given: Json) -> Preprocessing:
    """Understand `preprocessor_config.json`; what it does not say is as the published models do."""
    factor = given.get("rescale_factor", 1 / 255)
    if not given.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-3:
        raise ValueError("the preprocessor does not rescale by 1/255, which this one always does")
    short, long = _read_size(given) if given.get("do_resize", True) else (None, None)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if given.get("do_normalize", True):
        mean = _three(given, "image_mean", IMAGENET_MEAN)
        std = _three(given, "image_std", IMAGENET_STD)
    return Preprocessing(short_side=short, long_side=long, mean=mean, std=std)


def _read_size(given: Json) -> tuple[int | None, int | None]:
    """Understand the size's forms: one number with `max_size`, or a dictionary of edges."""
    size = given.get("size", 800)
    longest = given.get("max_size", 1333)
    if isinstance(size, int):
        return size, longest
    if isinstance(size, dict):
        edges = cast("dict[str, Any]", size)
        short, long = edges.get("shortest_edge"), edges.get("longest_edge")
        if isinstance(long, int) and short in (None, long):
            return long, long  # the long side exactly so, and the short one as it comes
        if isinstance(short, int) and isinstance(long or longest, int):
            limit = long or longest
            return short, limit if limit < _NO_LIMIT else None
    raise ValueError(f"size is {size!r}; expected shortest_edge and longest_edge in pixels")


def _write_preprocessing(rule: Preprocessing, *, masks: bool) -> dict[str, Any]:
    return {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_panoptic" if masks else "coco_detection",
        "do_resize": rule.short_side is not None,
        "size": {
            "shortest_edge": rule.short_side or 800,
            "longest_edge": rule.long_side or _NO_LIMIT,
        },
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(rule.mean),
        "image_std": list(rule.std),
        "do_pad": True,
    }


def _three(given: Json, key: str, usual: tuple[float, float, float]) -> tuple[float, float, float]:
    values = given.get(key, usual)
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ValueError(f"{key} is {values!r}; expected three numbers")
    red, green, blue = (scalar(float, value, key) for value in cast("list[object]", values))
    return red, green, blue


def _whole(config: Json, key: str, usual: int) -> int:
    return scalar(int, config.get(key, usual), key)


def _same(config: Json, key: str, usual: int) -> int:
    """Read a number that encoder and decoder have each, and must share here."""
    encoder, decoder = (_whole(config, f"{part}_{key}", usual) for part in ("encoder", "decoder"))
    if encoder != decoder:
        raise ValueError(f"encoder_{key} is {encoder} and decoder_{key} {decoder}; expected one")
    return encoder
