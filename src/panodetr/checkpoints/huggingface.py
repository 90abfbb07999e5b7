"""The names in the files of transformers, and in its models' state dicts.

Version 4 named the modules as its files on the hub do to this day. Version 5 renamed the modules
but still saves under the old names, except the learned positions, which moved. The backbone is
timm's or transformers' own ResNet.
"""

from __future__ import annotations

from dataclasses import dataclass

from panodetr.checkpoints.names import TORCHVISION_RESNET, NameTable, Row

TRANSFORMERS_RESNET: tuple[Row, ...] = (
    ("stem_conv", "embedder.embedder.convolution"),
    ("stem_norm", "embedder.embedder.normalization"),
    *(
        (f"stages.*.*.{ours}{n + 1}", f"encoder.stages.*.layers.*.layer.{n}.{theirs}")
        for ours, theirs in (("conv", "convolution"), ("norm", "normalization"))
        for n in range(3)
    ),
    ("stages.*.*.shortcut.0", "encoder.stages.*.layers.*.shortcut.convolution"),
    ("stages.*.*.shortcut.1", "encoder.stages.*.layers.*.shortcut.normalization"),
)


@dataclass(frozen=True)
class _Words:
    """Where the versions differ."""

    backbone: str
    positions: str
    out: str
    ffn: str
    mask_rows: tuple[Row, ...]


_MASKS_4: tuple[Row, ...] = (
    ("attention_maps.query", "bbox_attention.q_linear"),
    ("attention_maps.key", "bbox_attention.k_linear"),
    *((f"mask_head.convs.{n}", f"mask_head.lay{n + 1}") for n in range(5)),
    *((f"mask_head.norms.{n}", f"mask_head.gn{n + 1}") for n in range(5)),
    *((f"mask_head.adapters.{n}", f"mask_head.adapter{n + 1}") for n in range(3)),
    ("mask_head.out", "mask_head.out_lay"),
)
_MASKS_5: tuple[Row, ...] = (
    ("attention_maps.query", "bbox_attention.q_proj"),
    ("attention_maps.key", "bbox_attention.k_proj"),
    *(
        (f"mask_head.{ours}.{n}", f"mask_head.conv{n + 1}.{theirs}")
        for ours, theirs in (("convs", "conv"), ("norms", "norm"))
        for n in range(2)
    ),
    *(
        (f"mask_head.{ours}.{n + 2}", f"mask_head.fpn_stages.{n}.refine.{theirs}")
        for ours, theirs in (("convs", "conv"), ("norms", "norm"))
        for n in range(3)
    ),
    *((f"mask_head.adapters.{n}", f"mask_head.fpn_stages.{n}.fpn_adapter") for n in range(3)),
    ("mask_head.out", "mask_head.output_conv"),
)

_VERSION_4 = _Words(
    backbone="backbone.conv_encoder.model",
    positions="backbone.position_embedding",
    out="out_proj",
    ffn="fc",
    mask_rows=_MASKS_4,
)
_VERSION_5_FILES = _Words(
    backbone="backbone.conv_encoder.model",
    positions="position_embedding",
    out="out_proj",
    ffn="fc",
    mask_rows=_MASKS_4,
)
_VERSION_5 = _Words(
    backbone="backbone.model",
    positions="position_embedding",
    out="o_proj",
    ffn="mlp.fc",
    mask_rows=_MASKS_5,
)


def _table(source: str, words: _Words, resnet: tuple[Row, ...]) -> NameTable:
    """Put a table together."""

    def attention(ours: str, theirs: str) -> tuple[Row, ...]:
        return (
            (f"{ours}.query", f"{theirs}.q_proj"),
            (f"{ours}.key", f"{theirs}.k_proj"),
            (f"{ours}.value", f"{theirs}.v_proj"),
            (f"{ours}.out", f"{theirs}.{words.out}"),
        )

    encoder, decoder = "model.encoder.layers.*", "model.decoder.layers.*"
    return NameTable(
        source,
        (
            *((f"backbone.{ours}", f"model.{words.backbone}.{theirs}") for ours, theirs in resnet),
            ("positions.rows", f"model.{words.positions}.row_embeddings"),
            ("positions.columns", f"model.{words.positions}.column_embeddings"),
            ("project", "model.input_projection"),
            ("queries", "model.query_position_embeddings"),
            *attention("encoder.layers.*.attention", f"{encoder}.self_attn"),
            ("encoder.layers.*.attention_residual.norm", f"{encoder}.self_attn_layer_norm"),
            ("encoder.layers.*.ffn.0", f"{encoder}.{words.ffn}1"),
            ("encoder.layers.*.ffn.3", f"{encoder}.{words.ffn}2"),
            ("encoder.layers.*.ffn_residual.norm", f"{encoder}.final_layer_norm"),
            ("encoder.norm", "model.encoder.layernorm"),
            *attention("decoder.layers.*.self_attention", f"{decoder}.self_attn"),
            ("decoder.layers.*.self_residual.norm", f"{decoder}.self_attn_layer_norm"),
            *attention("decoder.layers.*.cross_attention", f"{decoder}.encoder_attn"),
            ("decoder.layers.*.cross_residual.norm", f"{decoder}.encoder_attn_layer_norm"),
            ("decoder.layers.*.ffn.0", f"{decoder}.{words.ffn}1"),
            ("decoder.layers.*.ffn.3", f"{decoder}.{words.ffn}2"),
            ("decoder.layers.*.ffn_residual.norm", f"{decoder}.final_layer_norm"),
            ("decoder.norm", "model.decoder.layernorm"),
            ("class_head", "class_labels_classifier"),
            *((f"box_head.{2 * n}", f"bbox_predictor.layers.{n}") for n in range(3)),
            *words.mask_rows,
        ),
    )


TIMM_4 = _table("transformers 4 with timm", _VERSION_4, TORCHVISION_RESNET)
RESNET_4 = _table("transformers 4", _VERSION_4, TRANSFORMERS_RESNET)
TIMM_5_FILES = _table("transformers 5 with timm", _VERSION_5_FILES, TORCHVISION_RESNET)
RESNET_5_FILES = _table("transformers 5", _VERSION_5_FILES, TRANSFORMERS_RESNET)
TIMM_5 = _table("transformers 5 with timm", _VERSION_5, TORCHVISION_RESNET)
RESNET_5 = _table("transformers 5", _VERSION_5, TRANSFORMERS_RESNET)

TABLES = (TIMM_4, RESNET_4, TIMM_5_FILES, RESNET_5_FILES, TIMM_5, RESNET_5)
