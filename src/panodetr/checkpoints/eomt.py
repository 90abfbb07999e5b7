"""transformers' configuration of an EoMT, and what an EoMT's weights show of its shape.

Stuff or thing stands in none of them; COCO's and ADE20K's classes are known by their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from panodetr.checkpoints.huggingface import (
    Preprocessor,
    read_labels,
    read_normalization,
    with_kept,
    write_labels,
    write_normalization,
)
from panodetr.checkpoints.published import dense_categories, plain_category
from panodetr.checkpoints.spec import (
    CONFIG_FILE,
    NO_CLASS,
    PREPROCESSOR_FILE,
    ModelSpec,
    spec_to_json,
)
from panodetr.errors import CheckpointError
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import EomtConfig, VitConfig, usual_query_blocks
from panodetr.results.types import Category
from panodetr.validation import check

if TYPE_CHECKING:  # `panodetr models` reads configurations, and torch takes seconds to import
    from panodetr.checkpoints.names import StoredShapes

SCORE, OVERLAP = 0.8, 0.8
"""The published rule: least score of a segment, and least part of a mask that it must win."""
_PATCH, _SIDE = 16, 640
"""Of a patch and of an image, in pixels, where a DINOv2 does not say what an EoMT's are to be."""

_HEAD = 64
"""Width of an attention head in every DINOv2."""


@dataclass(frozen=True, kw_only=True)
class DinoConfig:
    """`config.json` of transformers' DINOv2 with registers, and what EoMT's shares with it."""

    model_type: Literal["eomt", "dinov2_with_registers"]
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: int = 4
    use_swiglu_ffn: bool = False
    num_register_tokens: int = 4
    image_size: int = 224
    patch_size: int = 16
    num_channels: Literal[3] = 3
    hidden_act: Literal["gelu"] = "gelu"

    def vit(self) -> VitConfig:
        """The transformer, as the weights are.

        Raises:
            ValueError: a number is out of bounds.
        """
        return VitConfig(
            hidden_dim=self.hidden_size,
            heads=self.num_attention_heads,
            layers=self.num_hidden_layers,
            ffn_ratio=self.mlp_ratio,
            swiglu=self.use_swiglu_ffn,
            registers=self.num_register_tokens,
            patch=self.patch_size,
            grid=max(1, self.image_size // max(1, self.patch_size)),
        )


@dataclass(frozen=True, kw_only=True)
class EomtJson(DinoConfig):
    """`config.json` of an EoMT, the keys that matter here."""

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 640
    num_blocks: int = 4
    num_queries: int = 200
    num_upscale_blocks: int = 2
    id2label: dict[str, str] | None = None
    num_labels: int = 2
    panodetr: dict[str, Any] | None = None


def read_eomt(config: Mapping[str, Any], preprocessor: Mapping[str, Any], name: str) -> ModelSpec:
    """Understand a configuration of transformers; as `read_huggingface`."""
    given = check(config, EomtJson, CONFIG_FILE, CheckpointError)
    pixels = check(preprocessor, Preprocessor, PREPROCESSOR_FILE, CheckpointError)
    try:
        spec = _read(given, pixels, name)
    except ValueError as error:
        raise CheckpointError(f"{CONFIG_FILE}: {error}") from error
    return with_kept(spec, given.panodetr)


def _read(config: EomtJson, preprocessor: Preprocessor, name: str) -> ModelSpec:
    classes, labels = read_labels(config.id2label, config.num_labels)
    shape = EomtConfig(
        backbone=config.vit(),
        num_classes=classes,
        num_queries=config.num_queries,
        query_blocks=config.num_blocks,
        upscales=config.num_upscale_blocks,
    )
    mean, std = read_normalization(preprocessor)
    size = preprocessor.size if isinstance(preprocessor.size, dict) else {}
    side = size.get("shortest_edge") or config.image_size
    if side < config.patch_size:
        raise ValueError(
            f"images have {side} pixels a side; expected a patch of {config.patch_size} or more"
        )
    rule = Preprocessing(
        short_side=side,
        long_side=size.get("longest_edge") or side,
        multiple=side if preprocessor.do_pad else config.patch_size,
        mean=mean,
        std=std,
    )
    return _spec(name, shape, dense_categories(classes, labels), rule)


def read_dinov2(config: Mapping[str, Any], preprocessor: Mapping[str, Any], name: str) -> ModelSpec:
    """Understand a configuration of DINOv2: an EoMT that is still to be trained on it.

    Raises:
        CheckpointError: it is one that cannot be built here.
    """
    del preprocessor  # of a classifier
    given = check(config, DinoConfig, CONFIG_FILE, CheckpointError)
    try:
        vit = replace(given.vit(), patch=_PATCH, grid=_SIDE // _PATCH)
        shape = EomtConfig(backbone=vit, num_classes=1, query_blocks=usual_query_blocks(vit.layers))
        rule = Preprocessing(short_side=_SIDE, long_side=_SIDE, multiple=_SIDE)
        nothing = replace(plain_category(0, "nothing"), id=NO_CLASS)
        return _spec(name, shape, (nothing,), rule)
    except ValueError as error:
        raise CheckpointError(f"{CONFIG_FILE}: {error}") from error


def write_eomt(spec: ModelSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Describe a model as transformers does: `config.json` and `preprocessor_config.json`."""
    shape, rule = spec.architecture, spec.preprocessing
    assert isinstance(shape, EomtConfig)
    vit = shape.backbone
    side = vit.grid * vit.patch
    config = {
        "architectures": ["EomtForUniversalSegmentation"],
        "model_type": "eomt",
        "hidden_size": vit.hidden_dim,
        "num_hidden_layers": vit.layers,
        "num_attention_heads": vit.heads,
        "mlp_ratio": vit.ffn_ratio,
        "use_swiglu_ffn": vit.swiglu,
        "num_register_tokens": vit.registers,
        "image_size": side,
        "patch_size": vit.patch,
        "num_blocks": shape.query_blocks,
        "num_queries": shape.num_queries,
        "num_upscale_blocks": shape.upscales,
        **write_labels(spec),
        "panodetr": spec_to_json(spec),
    }
    preprocessor = {
        "image_processor_type": "EomtImageProcessor",
        **write_normalization(rule),
        "do_resize": True,
        "do_pad": True,  # transformers' network takes images of this size alone
        "do_split_image": False,
        "size": {"shortest_edge": side, "longest_edge": side},
    }
    return config, preprocessor


def infer_eomt(shapes: StoredShapes, name: str) -> ModelSpec:
    """Find the configuration that has weights of these names and shapes.

    Images are taken to be as large as the positions say.

    Raises:
        ValueError: a weight is missing that every EoMT has.
    """
    size, masks = shapes.size, "attn_mask_probs"
    dim, _, patch, _ = size("backbone.patches.weight", 4)
    swiglu = not shapes.has("backbone.blocks.0.ffn.0.bias")
    down, fed = "backbone.blocks.0.ffn.down.weight", "backbone.blocks.0.ffn.2.weight"
    if not swiglu:  # timm packs the gate into the first layer, under one name
        swiglu = 2 * size(fed, 2)[1] == size("backbone.blocks.0.ffn.0.bias", 1)[0]
    layers = shapes.depth("backbone.blocks.*.attention_scale")
    wide = size(down if swiglu else fed, 2)[1] * (1.5 if swiglu else 1)
    masked = next((t for key, t in shapes.tensors.items() if key.endswith(masks)), None)
    vit = VitConfig(
        hidden_dim=dim,
        heads=max(1, dim // _HEAD),
        layers=layers,
        ffn_ratio=round(wide / max(1, dim)),
        swiglu=swiglu,
        registers=size("backbone.registers", 3)[1],
        patch=patch,
        grid=round(size("backbone.positions", 2)[0] ** 0.5),
    )
    shape = EomtConfig(
        backbone=vit,
        num_classes=size("class_head.weight", 2)[0] - 1,
        num_queries=size("queries.weight", 2)[0],
        query_blocks=usual_query_blocks(layers) if masked is None else len(masked),
        upscales=shapes.depth("doublings.*.enlarge.weight"),
    )
    side = vit.grid * vit.patch
    rule = Preprocessing(short_side=side, long_side=side, multiple=side)
    return _spec(name, shape, dense_categories(shape.num_classes, None), rule)


def _spec(
    name: str, shape: EomtConfig, categories: tuple[Category, ...], rule: Preprocessing
) -> ModelSpec:
    return ModelSpec(
        name=name,
        architecture=shape,
        categories=categories,
        preprocessing=rule,
        threshold=SCORE,
        overlap=OVERLAP,
    )
