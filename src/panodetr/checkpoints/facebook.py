"""The names in the original's `.pth` files (facebookresearch/detr)."""

from __future__ import annotations

from panodetr.checkpoints.names import TORCHVISION_RESNET, NameTable, Row

_ENCODER = "transformer.encoder.layers.*"
_DECODER = "transformer.decoder.layers.*"


def _attention(ours: str, theirs: str) -> tuple[Row, ...]:
    return (
        (f"{ours}.query", f"{theirs}.q_proj"),
        (f"{ours}.key", f"{theirs}.k_proj"),
        (f"{ours}.value", f"{theirs}.v_proj"),
        (f"{ours}.out", f"{theirs}.out_proj"),
    )


FACEBOOK = NameTable(
    "the original implementation",
    (
        *((f"backbone.{ours}", f"backbone.0.body.{theirs}") for ours, theirs in TORCHVISION_RESNET),
        ("positions.rows", "backbone.1.row_embed"),
        ("positions.columns", "backbone.1.col_embed"),
        ("project", "input_proj"),
        ("queries", "query_embed"),
        *_attention("encoder.layers.*.attention", f"{_ENCODER}.self_attn"),
        ("encoder.layers.*.attention_residual.norm", f"{_ENCODER}.norm1"),
        ("encoder.layers.*.ffn.0", f"{_ENCODER}.linear1"),
        ("encoder.layers.*.ffn.3", f"{_ENCODER}.linear2"),
        ("encoder.layers.*.ffn_residual.norm", f"{_ENCODER}.norm2"),
        ("encoder.norm", "transformer.encoder.norm"),
        *_attention("decoder.layers.*.self_attention", f"{_DECODER}.self_attn"),
        ("decoder.layers.*.self_residual.norm", f"{_DECODER}.norm1"),
        *_attention("decoder.layers.*.cross_attention", f"{_DECODER}.multihead_attn"),
        ("decoder.layers.*.cross_residual.norm", f"{_DECODER}.norm2"),
        ("decoder.layers.*.ffn.0", f"{_DECODER}.linear1"),
        ("decoder.layers.*.ffn.3", f"{_DECODER}.linear2"),
        ("decoder.layers.*.ffn_residual.norm", f"{_DECODER}.norm3"),
        ("decoder.norm", "transformer.decoder.norm"),
        ("class_head", "class_embed"),
        *((f"box_head.{2 * n}", f"bbox_embed.layers.{n}") for n in range(3)),
        ("attention_maps.query", "bbox_attention.q_linear"),
        ("attention_maps.key", "bbox_attention.k_linear"),
        *((f"mask_head.convs.{n}", f"mask_head.lay{n + 1}") for n in range(5)),
        *((f"mask_head.norms.{n}", f"mask_head.gn{n + 1}") for n in range(5)),
        *((f"mask_head.adapters.{n}", f"mask_head.adapter{n + 1}") for n in range(3)),
        ("mask_head.out", "mask_head.out_lay"),
    ),
    fused=True,
)
