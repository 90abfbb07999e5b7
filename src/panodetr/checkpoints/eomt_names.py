"""Names of an EoMT's weights: ours, transformers', the original's (tue-mps/eomt), and DINOv2's."""

from __future__ import annotations

from panodetr.checkpoints.names import NameTable, Row

_BLOCK = (
    ("attention_norm", "norm1", "norm1"),
    ("attention.query", "attention.q_proj", "attn.qkv"),
    ("attention.key", "attention.k_proj", "attn.qkv"),
    ("attention.value", "attention.v_proj", "attn.qkv"),
    ("attention.out", "attention.out_proj", "attn.proj"),
    ("attention_scale", "layer_scale1.lambda1", "ls1.gamma"),
    ("ffn_norm", "norm2", "norm2"),
    ("ffn.0", "mlp.fc1", "mlp.fc1"),
    ("ffn.2", "mlp.fc2", "mlp.fc2"),
    ("ffn.gate", "mlp.gate_proj", "mlp.fc1"),
    ("ffn.up", "mlp.up_proj", "mlp.fc1"),
    ("ffn.down", "mlp.down_proj", "mlp.fc2"),
    ("ffn_scale", "layer_scale2.lambda1", "ls2.gamma"),
)
"""Within each block: ours, transformers', the original's (timm's)."""

_VIT = (
    ("backbone.patches", "embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("backbone.class_token", "embeddings.cls_token", "cls_token"),
    ("backbone.registers", "embeddings.register_tokens", "reg_token"),
    ("backbone.positions", "embeddings.position_embeddings.weight", "pos_embed"),
    ("backbone.norm", "layernorm", "norm"),
)

_HEADS = (
    ("queries", "query", "q"),
    ("class_head", "class_predictor", "class_head"),
    *((f"mask_embedding.{2 * n}", f"mask_head.fc{n + 1}", f"mask_head.{2 * n}") for n in range(3)),
    ("doublings.*.enlarge", "upscale_block.block.*.conv1", "upscale.*.conv1"),
    ("doublings.*.mix", "upscale_block.block.*.conv2", "upscale.*.conv2"),
    ("doublings.*.norm", "upscale_block.block.*.layernorm2d", "upscale.*.norm"),
)

_OLD_SWIGLU = {"gate_proj": "weights_in", "up_proj": "weights_in", "down_proj": "weights_out"}
"""What transformers 5 renamed of 4, in its EoMT, and still writes so of DINOv2."""

_OLD_ATTENTION = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.out_proj": "attention.output.dense",
}
"""What DINOv2's files call the parts of an attention."""


def _rows(column: int, place: str = "", blocks: str = "layers") -> list[Row]:
    """List all names, ours and those of a column; the transformer stands at a place."""
    return [
        *((row[0], place + row[column]) for row in _VIT),
        *((f"backbone.blocks.*.{row[0]}", f"{place}{blocks}.*.{row[column]}") for row in _BLOCK),
        *((row[0], row[column]) for row in _HEADS),
    ]


def _renamed(rows: list[Row], *changes: dict[str, str]) -> list[Row]:
    found: list[Row] = []
    for ours, theirs in rows:
        for old, new in (pair for change in changes for pair in change.items()):
            theirs = theirs.replace(old, new)
        found.append((ours, theirs))
    return found


_UNUSED = ("attn_mask_probs", "criterion.empty_weight")

EOMT_TRANSFORMERS = NameTable("transformers 5", _rows(1), unused=_UNUSED)
EOMT_TRANSFORMERS_4 = NameTable("transformers 4", _renamed(_rows(1), _OLD_SWIGLU), unused=_UNUSED)
EOMT_ORIGINAL = NameTable(
    "tue-mps/eomt",
    _rows(2, "encoder.backbone.", "blocks"),
    nested=["encoder.backbone.pos_embed"],
    unused=(*_UNUSED, "encoder.pixel_mean", "encoder.pixel_std"),
)
EOMT_OURS = NameTable("panodetr", [(ours, ours) for ours, _ in EOMT_ORIGINAL.rows])
EOMT_TABLES = (EOMT_OURS, EOMT_TRANSFORMERS, EOMT_TRANSFORMERS_4, EOMT_ORIGINAL)

DINOV2 = NameTable(
    "transformers' DINOv2",
    [
        ("backbone.positions", "embeddings.position_embeddings"),
        *_renamed(
            [row for row in _rows(1, blocks="encoder.layer") if row[0].startswith("backbone.")],
            _OLD_ATTENTION,
            _OLD_SWIGLU,
        ),
    ],
    nested=["embeddings.position_embeddings"],
    unused=["embeddings.mask_token"],
)
"""Of files; the class token has a position there, the first."""
