"""`config.json` and `preprocessor_config.json` of transformers, and back.

What transformers has no field for (stuff or thing, colours, ids, the threshold, tiles) is kept
under the key "panodetr", as a whole specification, which transformers carries along unread.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from panodetr.checkpoints.published import (
    UNUSED,
    categories_by_count,
    coco_panoptic,
    plain_category,
)
from panodetr.checkpoints.spec import (
    CONFIG_FILE,
    PREPROCESSOR_FILE,
    ModelSpec,
    spec_from_json,
    spec_to_json,
)
from panodetr.errors import CheckpointError, CheckpointWarning, preview
from panodetr.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from panodetr.model.config import (
    COCO_PANOPTIC_CLASSES,
    RESNET18,
    RESNET34,
    RESNET50,
    RESNET101,
    DetrConfig,
    ResNetConfig,
)
from panodetr.results.types import Category
from panodetr.validation import check

RESNETS = {
    "resnet18": RESNET18,
    "resnet34": RESNET34,
    "resnet50": RESNET50,
    "resnet101": RESNET101,
    "resnet152": ResNetConfig(depths=(3, 8, 36, 3)),
}
"""By the names that torchvision, timm and the original share."""

SAME = {
    "num_queries": "num_queries",
    "d_model": "hidden_dim",
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "encoder_attention_heads": "heads",
    "decoder_attention_heads": "decoder_heads",
    "encoder_ffn_dim": "ffn_dim",
    "decoder_ffn_dim": "decoder_ffn_dim",
    "activation_function": "activation",
    "dropout": "dropout",
    "position_embedding_type": "positions",
}
"""Keys of `config.json`, and the fields of `DetrConfig` that mean the same, with the defaults."""

_NO_LIMIT = 1_000_000  # pixels of the long side, where transformers wants a number
_Colours: TypeAlias = tuple[float, float, float]
_PLAIN_LABEL = re.compile(r"LABEL_\d+")


@dataclass(frozen=True, kw_only=True)
class _Backbone:
    """`backbone_config`: transformers' ResNet, or a name of timm's."""

    model_type: str | None = None
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    hidden_sizes: tuple[int, int, int, int] = (256, 512, 1024, 2048)
    embedding_size: int = 64
    num_channels: int = 3
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    backbone: str | None = None
    output_stride: int | None = None
    out_features: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class _Config:
    """`config.json`, the keys that matter here beside those in `SAME`."""

    model_type: Literal["detr", "table-transformer", "conditional_detr"]
    architectures: tuple[str, ...] | None = None
    num_channels: int = 3
    id2label: dict[str, str] | None = None
    num_labels: int = 2
    backbone: str | None = None
    backbone_config: _Backbone | None = None
    dilation: bool | None = None
    auxiliary_loss: bool = False
    panodetr: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Preprocessor:
    """`preprocessor_config.json`; what it does not say is as the published models do."""

    do_resize: bool = True
    size: int | dict[str, int | None] = 800
    max_size: int | None = 1333
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    image_std: tuple[float, float, float] = IMAGENET_STD
    do_pad: bool | None = None


def read_huggingface(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], name: str
) -> ModelSpec:
    """Understand a configuration of transformers, version 4 or 5.

    Args:
        config: `config.json`, parsed.
        preprocessor: `preprocessor_config.json`, parsed; where keys are missing it is as DETR's
            usual one.
        name: what to call the model.

    Raises:
        CheckpointError: it is no DETR, or one that cannot be built here; the message names the file
            and the key.
    """
    values = check(config, _Config, CONFIG_FILE, CheckpointError)
    rule = check(preprocessor, Preprocessor, PREPROCESSOR_FILE, CheckpointError)
    file = PREPROCESSOR_FILE
    try:
        preprocessing = _read_preprocessing(rule)
        file = CONFIG_FILE
        spec = _read_model(config, values, preprocessing, name)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error
    return with_kept(spec, values.panodetr)


def write_huggingface(spec: ModelSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Describe a model as transformers does: `config.json` and `preprocessor_config.json`.

    Raises:
        ValueError: transformers has no such model; the message names the field.
    """
    shape = spec.architecture
    assert isinstance(shape, DetrConfig)
    if shape.pre_norm and shape.masks:
        raise ValueError("architecture.pre_norm with a mask head; transformers has either")
    if shape.pre_norm:
        model_type, kind = "table-transformer", "TableTransformerForObjectDetection"
    else:
        model_type, kind = "detr", f"DetrFor{'Segmentation' if shape.masks else 'ObjectDetection'}"
    config = {
        "architectures": [kind],
        "model_type": model_type,
        "num_channels": shape.backbone.inputs,
        **_write_backbone(shape.backbone, shape.mask_stages),
        **write_shape(shape),
        "attention_dropout": shape.dropout,
        "activation_dropout": shape.dropout,
        "auxiliary_loss": shape.normed_states,
        "is_encoder_decoder": True,
        **write_labels(spec),
        "panodetr": spec_to_json(spec),
    }
    return config, {"image_processor_type": "DetrImageProcessor", **processor_options(spec)}


def write_shape(shape: DetrConfig) -> dict[str, Any]:
    """Say a network's shape, but for its backbone, in the keys of `config.json`."""
    return {theirs: getattr(shape, ours) for theirs, ours in SAME.items()} | {
        "decoder_attention_heads": shape.decoder_heads or shape.heads,
        "decoder_ffn_dim": shape.decoder_ffn_dim or shape.ffn_dim,
    }


def processor_options(spec: ModelSpec) -> dict[str, Any]:
    """Say a model's preprocessing in the options of transformers' processor, without tiles."""
    rule, short, long = spec.preprocessing, 800, 1333
    if rule.short_side is not None:
        short, long = rule.short_side, rule.long_side or _NO_LIMIT
    return {
        "format": "coco_panoptic" if spec.architecture.masks else "coco_detection",
        "do_resize": rule.short_side is not None,
        "size": {"shortest_edge": short, "longest_edge": long},
        **write_normalization(rule),
        "do_pad": True,
    }


def write_normalization(rule: Preprocessing) -> dict[str, Any]:
    """Say how pixels are resampled and normalised, in the options of transformers' processors."""
    return {
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(rule.mean),
        "image_std": list(rule.std),
    }


def write_labels(spec: ModelSpec) -> dict[str, Any]:
    """Name the classes as transformers does, those that the data does not have among them."""
    labels = dict.fromkeys(range(spec.architecture.num_classes), UNUSED)
    labels.update({category.index: category.name for category in spec.categories})
    return {
        "id2label": {str(index): label for index, label in labels.items()},
        "label2id": {label: index for index, label in labels.items()},
    }


def resnet_name(backbone: ResNetConfig) -> str:
    """Name a backbone as torchvision, timm and the original do.

    Raises:
        ValueError: they have no such network.
    """
    plain = replace(backbone, norm="frozen", dilate_last=False, inputs=3)
    for name, resnet in RESNETS.items():
        if resnet == plain:
            return name
    raise ValueError(f"the backbone is none of {', '.join(RESNETS)}")


def _read_model(
    given: Mapping[str, Any], config: _Config, preprocessing: Preprocessing, name: str
) -> ModelSpec:
    conditional = config.model_type == "conditional_detr"
    shape: dict[str, Any] = {
        "num_queries": 300 if conditional else 100,
        **{"heads": 8, "ffn_dim": 2048, "decoder_heads": 8, "decoder_ffn_dim": 2048},  # usual ones
        **{ours: given[theirs] for theirs, ours in SAME.items() if theirs in given},
    }
    for key in ("heads", "ffn_dim"):
        if shape[f"decoder_{key}"] == shape[key]:
            del shape[f"decoder_{key}"]
    classes, categories = _read_classes(config)
    return ModelSpec(
        name=name,
        architecture=DetrConfig(
            backbone=_read_backbone(config),
            num_classes=classes,
            pre_norm=config.model_type == "table-transformer",
            normed_states=config.auxiliary_loss,
            masks=any("DetrForSegmentation" in kind for kind in config.architectures or ()),
            conditional=conditional,
            sigmoid=conditional,
            mask_stages=_read_mask_stages(config.backbone_config),
            **shape,
        ),
        categories=categories,
        preprocessing=preprocessing,
    )


def _read_classes(config: _Config) -> tuple[int, tuple[Category, ...]]:
    """Count and name the classes; COCO's catalogue says what names and numbers alone do not."""
    count, labels = read_labels(config.id2label, config.num_labels)
    if labels is None:
        # The published panoptic models have plain labels, those for boxes have names.
        return count, categories_by_count(count, is_guess=count != COCO_PANOPTIC_CLASSES)
    known = {(category.index, category.name): category for category in coco_panoptic()}
    return count, tuple(
        known.get((index, label)) or plain_category(index, label)
        for index, label in enumerate(labels)
        if label != UNUSED
    )


def read_labels(
    id2label: Mapping[str, str] | None, num_labels: int
) -> tuple[int, list[str] | None]:
    """Count the classes, and list their names by index; None where they have no real ones.

    There are as many classes as names, from 0: of names from 1 on, the last has no place.

    Raises:
        ValueError: no name has a place.
    """
    if id2label is None:  # transformers leaves out its default, two plain labels
        return num_labels, None
    if all(_PLAIN_LABEL.fullmatch(label) for label in id2label.values()):
        return len(id2label), None
    indices = [str(index) for index in range(len(id2label))]
    places = set(indices)
    beyond = [f"{name!r} ({index})" for index, name in id2label.items() if index not in places]
    if len(beyond) == len(id2label):
        raise ValueError(f"id2label has {len(id2label)} names, none below {len(id2label)}")
    if beyond:
        warnings.warn(
            f"id2label has {len(id2label)} names, so that there are as many classes, from 0; "
            f"without a place: {preview(beyond)}",
            CheckpointWarning,
            stacklevel=2,
        )
    return len(indices), [id2label.get(index, UNUSED) for index in indices]


def with_kept(spec: ModelSpec, given: Mapping[str, Any] | None) -> ModelSpec:
    """Add what the key "panodetr" holds, unless the names of the classes were changed since.

    Raises:
        CheckpointError: it is no specification.
    """
    if given is None:
        return spec
    kept = spec_from_json(given, f"{CONFIG_FILE}: panodetr")
    names, known = ({c.index: c.name for c in one.categories} for one in (spec, kept))
    if names != known:
        return spec
    own = ("short_side", "long_side", "multiple", "mean", "std")
    rule = replace(kept.preprocessing, **{key: getattr(spec.preprocessing, key) for key in own})
    return replace(kept, name=spec.name, architecture=spec.architecture, preprocessing=rule)


def _read_backbone(config: _Config) -> ResNetConfig:
    """Understand the backbone: a name of timm's, or a configuration of transformers' ResNet."""
    inner = config.backbone_config or _Backbone()
    if inner.model_type not in (None, "timm_backbone", "resnet"):
        raise ValueError(f"backbone_config.model_type is {inner.model_type!r}; expected 'resnet'")
    if inner.model_type != "resnet":
        name = inner.backbone or config.backbone or "resnet50"
        resnet = RESNETS.get(name.split(".")[0])  # timm appends how the weights were trained
        if resnet is None:
            raise ValueError(f"backbone is {name!r}; expected one of {', '.join(RESNETS)}")
        dilate = bool(config.dilation) or inner.output_stride == 16
        return replace(resnet, dilate_last=dilate, inputs=config.num_channels)
    for key in ("downsample_in_first_stage", "downsample_in_bottleneck"):
        if getattr(inner, key):
            raise ValueError(f"backbone_config.{key} is true; this backbone has its strides fixed")
    if inner.hidden_act != "relu":
        raise ValueError(f"backbone_config.hidden_act is {inner.hidden_act!r}; expected 'relu'")
    expansion = 4 if inner.layer_type == "bottleneck" else 1
    a, b, c, d = (width // expansion for width in inner.hidden_sizes)
    even = not any(width % expansion for width in inner.hidden_sizes)
    return ResNetConfig(
        block=inner.layer_type,
        depths=inner.depths,
        widths=(a, b, c, d),
        outputs=None if even else inner.hidden_sizes,
        inputs=inner.num_channels,
        stem_width=inner.embedding_size,
    )


def _read_mask_stages(backbone: _Backbone | None) -> tuple[int, int, int]:
    """Find what the mask head refines masks with: the first three maps that the backbone gives."""
    names = [f"stage{stage}" for stage in range(1, 5)]
    given = list((backbone and backbone.out_features) or names)
    if backbone is not None and backbone.model_type == "resnet" and given[-1] != names[-1]:
        raise ValueError(f"backbone_config.out_features is {given}; expected stage4 as the last")
    known = [names.index(name) for name in given if name in names]  # timm has names of its own
    return (known[2], known[1], known[0]) if len(known) > 2 else (2, 1, 0)


def _write_backbone(backbone: ResNetConfig, stages: tuple[int, int, int]) -> dict[str, Any]:
    usual = ResNetConfig()
    for key in ("strides", "stem_stride", "stem_pool"):
        if getattr(backbone, key) != getattr(usual, key):
            raise ValueError(
                f"backbone.{key} is {getattr(backbone, key)}; transformers' ResNet has only "
                f"{getattr(usual, key)}"
            )
    if backbone.norm == "group":
        raise ValueError("backbone.norm is 'group'; transformers' DETR has only frozen batch norms")
    if backbone.dilate_last:  # by timm: transformers' own ResNet has no dilation
        return {"use_timm_backbone": True, "backbone": resnet_name(backbone), "dilation": True}
    return {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "dilation": False,
        "backbone_config": {
            "model_type": "resnet",
            "layer_type": backbone.block,
            "depths": list(backbone.depths),
            "num_channels": backbone.inputs,
            "embedding_size": backbone.stem_width,
            "hidden_sizes": list(backbone.stage_channels),
            "out_features": [f"stage{stage + 1}" for stage in sorted({*stages, 3})],
        },
    }


def _read_preprocessing(given: Preprocessor) -> Preprocessing:
    """Understand the size's forms: one number with `max_size`, or a dictionary of edges."""
    mean, std = read_normalization(given)
    if not given.do_resize:
        short = long = None
    elif isinstance(given.size, int):
        short, long = given.size, given.max_size
    else:
        short, long = given.size.get("shortest_edge"), given.size.get("longest_edge")
        most, exact = (
            [given.size.get(f"{kind}{side}") or 0 for side in ("height", "width")]
            for kind in ("max_", "")
        )
        box = most if all(most) else exact
        if short is None and long is None and all(box):
            long = max(box)
            if box is exact or box[0] != box[1]:
                warnings.warn(
                    f"size is {given.size}; here images keep their shape, and their long side "
                    f"becomes {long} pixels",
                    CheckpointWarning,
                    stacklevel=2,
                )
        if long is not None and short is None:
            short = long  # the long side exactly so, and the short one as it comes
        long = long or given.max_size
        if short is None or long is None:
            raise ValueError(
                f"size is {given.size}; expected shortest_edge and longest_edge in pixels"
            )
        long = long if long < _NO_LIMIT else None
    return Preprocessing(short_side=short, long_side=long, mean=mean, std=std)


def read_normalization(given: Preprocessor) -> tuple[_Colours, _Colours]:
    """Give mean and deviation of red, green and blue, for values from 0 to 1.

    Raises:
        ValueError: values are not to be from 0 to 1.
    """
    if not given.do_rescale or abs(given.rescale_factor * 255 - 1) > 1e-3:
        raise ValueError("the preprocessor does not rescale by 1/255, which this one always does")
    if not given.do_normalize:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return given.image_mean, given.image_std
