"""Tables between the names of our weights and those of other files.

A row pairs our name of a module with another's; `*` stands for a number that both share. Files are
read and written by the same table: of a model's own weights it says where each is in a file.

The tables are below: the original's `.pth` files (facebookresearch/detr), transformers, and
classifiers; then those of EoMT and DINOv2. Version 4 of transformers named the modules as its files
on the hub do to this day. Version 5 renamed the modules but still saves under the old names, except
the learned positions, which moved. The backbone is timm's or transformers' own ResNet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import count
from typing import TypeAlias

import torch

State: TypeAlias = dict[str, torch.Tensor]
Row: TypeAlias = tuple[str, str]
"""Our name and theirs."""

_NUMBER = re.compile(r"\d+")
_PREFIX = "detr."  # panoptic models wrap the detector; their mask head stands beside it
_MASK_PARTS = ("bbox_attention.", "mask_head.")
PREFIXES = (_PREFIX, "network.")  # the second one is of training checkpoints of EoMT's original


class NameTable:
    """The names of one kind of file.

    Args:
        source: what the files come from.
        rows: the two names of each module, or of a weight that stands alone. Where several of ours
            have one name of theirs, as queries, keys and values in `torch.nn.MultiheadAttention`,
            ours are parts of their tensor, in the order of the rows.
        nested: their names of tensors that have one more axis there, the first, of size 1.
        unused: their names of tensors that ours has no use for.
    """

    def __init__(
        self,
        source: str,
        rows: Sequence[Row],
        *,
        nested: Sequence[str] = (),
        unused: Sequence[str] = (),
    ) -> None:
        self.source = source
        self.rows = rows
        self.nested, self.unused = nested, unused
        self._patterns = [
            (re.compile(re.escape(ours).replace(r"\*", r"(\d+)")), theirs) for ours, theirs in rows
        ]

    def name(self, ours: str, prefix: str = "") -> str:
        """Give the name of a weight of ours in a file; `prefix` is `prefix_in` the file."""
        module, dot, leaf = ours.rpartition(".")
        for pattern, theirs in self._patterns:
            alone = pattern.fullmatch(ours)
            if found := alone or pattern.fullmatch(module):
                for number in found.groups():
                    theirs = theirs.replace("*", number, 1)
                theirs = (theirs if alone else theirs + dot + leaf).replace("in_proj.", "in_proj_")
                beside = prefix == _PREFIX and theirs.startswith(_MASK_PARTS)
                return theirs if beside else prefix + theirs
        raise KeyError(f"{self.source} has no row for {ours}")

    def from_ours(self, state: Mapping[str, torch.Tensor], prefix: str | None = None) -> State:
        """Give our weights their names.

        Args:
            state: a model's weights, or a part of them, without counters of batches.
            prefix: what the detector's names begin with; None goes by whether there are masks.
        """
        if prefix is None:
            prefix = _PREFIX if any(key.startswith("mask_head.") for key in state) else ""
        found: State = {}
        for name, ours in self._parts(state, prefix).items():
            parts = [state[key] for key in ours]
            found[name] = parts[0]
            if len(parts) > 1:  # on the meta device PyTorch would load its compiler to join them
                size = (sum(map(len, parts)), *parts[0].shape[1:])
                found[name] = parts[0].new_empty(size) if parts[0].is_meta else torch.cat(parts)
            if name.removeprefix(prefix) in self.nested:
                found[name] = found[name][None]
        return found

    def to_ours(self, state: Mapping[str, torch.Tensor], keys: Iterable[str]) -> State:
        """Give weights our names, the inverse of `from_ours`; others of `state` are left out.

        Args:
            state: weights under their names, of the shapes that ours have.
            keys: the names of ours.
        """
        found: State = {}
        prefix = prefix_in(state)
        for name, ours in self._parts(keys, prefix).items():
            tensor = state[name][0] if name.removeprefix(prefix) in self.nested else state[name]
            parts = tensor.chunk(len(ours)) if len(ours) > 1 else (tensor,)
            found.update(zip(ours, parts, strict=True))
        return found

    def known(self, keys: Iterable[str], part: str = "") -> list[str]:
        """List the names that such files have, or those in one part of our model."""
        names = {_numberless(name) for ours, name in self.rows if ours.startswith(part)}
        return [
            key
            for key in keys
            if (plain := _numberless(key)) in names or plain.rpartition(".")[0] in names
        ]

    def used(self, state: Mapping[str, torch.Tensor]) -> State:
        """Leave out what ours has no use for."""
        prefix = prefix_in(state)
        return {key: t for key, t in state.items() if key.removeprefix(prefix) not in self.unused}

    def _parts(self, keys: Iterable[str], prefix: str) -> dict[str, list[str]]:
        """List, for each of their names, ours of the tensor's parts."""
        parts: dict[str, list[str]] = {}
        for key in keys:
            parts.setdefault(self.name(key, prefix), []).append(key)
        return parts


class StoredShapes:
    """The shapes of a file's weights, by our names of them.

    Args:
        tensors: the weights, under their names.
        table: of these names.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], table: NameTable) -> None:
        self.tensors, self._table, self._prefix = tensors, table, prefix_in(tensors)

    def has(self, key: str) -> bool:
        """Whether there is a weight."""
        return self._table.name(key, self._prefix) in self.tensors

    def size(self, key: str, dimensions: int) -> tuple[int, ...]:
        """Give the shape that a weight has here.

        Raises:
            ValueError: it is missing, or has another number of dimensions.
        """
        name = self._table.name(key, self._prefix)
        size = self.tensors[name].shape if name in self.tensors else ()
        if name.removeprefix(self._prefix) in self._table.nested:
            size = size[1:]
        if name not in self.tensors or len(size) != dimensions:
            raise ValueError(
                f"{name!r} is missing or has not {dimensions} dimensions; is the file complete?"
            )
        return size

    def depth(self, key: str) -> int:
        """Count the weights of a name in which `*` stands for a number, from 0 on."""
        return next(n for n in count() if not self.has(key.replace("*", str(n))))


def prefix_in(names: Iterable[str]) -> str:
    """Give what the network's names begin with in a file: one of `PREFIXES`, or nothing."""
    listed = list(names)
    return next((p for p in PREFIXES if any(name.startswith(p) for name in listed)), "")


def without_counters(state: Mapping[str, torch.Tensor]) -> State:
    """Leave out how many batches a batch norm has seen: no inference needs it."""
    return {key: tensor for key, tensor in state.items() if not is_counter(key)}


def is_counter(name: str) -> bool:
    """Whether a weight counts the batches that a batch norm has seen."""
    return name.endswith(".num_batches_tracked")


def _numberless(key: str) -> str:
    """Give a name without a prefix, with `*` for every number."""
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return _NUMBER.sub("*", key.replace("in_proj_", "in_proj."))


_TORCHVISION: tuple[Row, ...] = (
    ("stem_conv", "conv1"),
    ("stem_norm", "bn1"),
    *((f"stages.{s}.*.conv{c}", f"layer{s + 1}.*.conv{c}") for s in range(4) for c in (1, 2, 3)),
    *((f"stages.{s}.*.norm{c}", f"layer{s + 1}.*.bn{c}") for s in range(4) for c in (1, 2, 3)),
    *((f"stages.{s}.*.shortcut.*", f"layer{s + 1}.*.downsample.*") for s in range(4)),
)
"""The backbone's names in torchvision, which timm and the original share."""

_LAYER = "encoder.stages.*.layers.*"
_TRANSFORMERS: tuple[Row, ...] = (
    ("stem_conv", "embedder.embedder.convolution"),
    ("stem_norm", "embedder.embedder.normalization"),
    *((f"stages.*.*.conv{n + 1}", f"{_LAYER}.layer.{n}.convolution") for n in range(3)),
    *((f"stages.*.*.norm{n + 1}", f"{_LAYER}.layer.{n}.normalization") for n in range(3)),
    ("stages.*.*.shortcut.0", f"{_LAYER}.shortcut.convolution"),
    ("stages.*.*.shortcut.1", f"{_LAYER}.shortcut.normalization"),
)
"""The backbone's names in transformers."""

_DETR = (
    ("positions.rows", "backbone.1.row_embed", "model.backbone.position_embedding.row_embeddings"),
    (
        "positions.columns",
        "backbone.1.col_embed",
        "model.backbone.position_embedding.column_embeddings",
    ),
    ("project", "input_proj", "model.input_projection"),
    ("queries", "query_embed", "model.query_position_embeddings"),
    ("encoder.norm", "transformer.encoder.norm", "model.encoder.layernorm"),
    ("decoder.norm", "transformer.decoder.norm", "model.decoder.layernorm"),
    ("class_head", "class_embed", "class_labels_classifier"),
    *(
        (f"box_head.{2 * n}", f"bbox_embed.layers.{n}", f"bbox_predictor.layers.{n}")
        for n in range(3)
    ),
)
"""Names of the parts: ours, the original's, and those of transformers 4."""

_LAYERS = {
    "encoder": (
        ("attention", "self_attn", "self_attn"),
        ("attention_residual.norm", "norm1", "self_attn_layer_norm"),
        ("ffn.0", "linear1", "fc1"),
        ("ffn.3", "linear2", "fc2"),
        ("ffn_residual.norm", "norm2", "final_layer_norm"),
    ),
    "decoder": (
        ("self_attention", "self_attn", "self_attn"),
        ("self_residual.norm", "norm1", "self_attn_layer_norm"),
        ("cross_attention", "multihead_attn", "encoder_attn"),
        ("cross_residual.norm", "norm2", "encoder_attn_layer_norm"),
        ("ffn.0", "linear1", "fc1"),
        ("ffn.3", "linear2", "fc2"),
        ("ffn_residual.norm", "norm3", "final_layer_norm"),
    ),
}
"""Names within each layer: ours, the original's, and those of transformers 4."""

_MASKS: tuple[Row, ...] = (
    ("attention_maps.query", "bbox_attention.q_linear"),
    ("attention_maps.key", "bbox_attention.k_linear"),
    *((f"mask_head.convs.{n}", f"mask_head.lay{n + 1}") for n in range(5)),
    *((f"mask_head.norms.{n}", f"mask_head.gn{n + 1}") for n in range(5)),
    *((f"mask_head.adapters.{n}", f"mask_head.adapter{n + 1}") for n in range(3)),
    ("mask_head.out", "mask_head.out_lay"),
)
"""The mask head in the original and in transformers 4."""

_FILES_5: tuple[Row, ...] = (("backbone.position_embedding", "position_embedding"),)
_MODULES_5: tuple[Row, ...] = (
    *_FILES_5,
    ("backbone.conv_encoder.model", "backbone.model"),
    ("out_proj", "o_proj"),
    ("fc", "mlp.fc"),
    ("_linear", "_proj"),
    *((f"lay{n}", f"conv{n}.conv") for n in (1, 2)),
    *((f"gn{n}", f"conv{n}.norm") for n in (1, 2)),
    *((f"lay{n + 3}", f"fpn_stages.{n}.refine.conv") for n in range(3)),
    *((f"gn{n + 3}", f"fpn_stages.{n}.refine.norm") for n in range(3)),
    *((f"adapter{n + 1}", f"fpn_stages.{n}.fpn_adapter") for n in range(3)),
    ("out_lay", "output_conv"),
)
"""What transformers 5 renamed of 4, in its files and in its models."""


def _detr(
    column: int, place: str, attention: Sequence[str], backbone: Sequence[Row], backbone_place: str
) -> list[Row]:
    """List all names, ours and those of a column; backbone and layers stand at a place."""
    rows = [
        *((f"backbone.{ours}", f"{backbone_place}.{theirs}") for ours, theirs in backbone),
        *((row[0], row[column]) for row in _DETR),
        *_MASKS,
    ]
    for part, row in ((part, row) for part, layer in _LAYERS.items() for row in layer):
        ours, theirs = f"{part}.layers.*.{row[0]}", f"{place}.{part}.layers.*.{row[column]}"
        if ours.endswith("attention"):
            parts = zip(("query", "key", "value", "out"), attention, strict=True)
            rows += [(f"{ours}.{a}", f"{theirs}.{b}") for a, b in parts]
        else:
            rows.append((ours, theirs))
    return rows


def _renamed(rows: Iterable[Row], changes: Iterable[Row]) -> list[Row]:
    """Replace parts of their names."""
    return [
        (ours, reduce(lambda name, change: name.replace(*change), changes, theirs))
        for ours, theirs in rows
    ]


TORCHVISION = NameTable("torchvision", [(f"backbone.{a}", b) for a, b in _TORCHVISION])
"""Classifiers of torchvision, and of timm, which has the same names."""

TRANSFORMERS_CLASSIFIER = NameTable(
    "transformers", [(f"backbone.{a}", f"resnet.{b}") for a, b in _TRANSFORMERS]
)
_APART = ("q_proj", "k_proj", "v_proj", "out_proj")
_FUSED = ("in_proj", "in_proj", "in_proj", "out_proj")
FACEBOOK = NameTable(
    "the original implementation",
    _detr(1, "transformer", _FUSED, _TORCHVISION, "backbone.0.body"),
)
_ATTENTION = {"self_attention": "sa_", "cross_attention": "ca_"}
_PARTS = (
    ("query", "qcontent"), ("query_place", "qpos"), ("query_near", "qpos_sine"),
    ("key", "kcontent"), ("key_place", "kpos"), ("value", "v"),
)  # fmt: skip


def _conditional(rows: Sequence[Row], place: str, cross: str) -> list[Row]:
    """Put Conditional DETR's decoder in the place of DETR's, from and to what tables hold."""
    layer, theirs = "decoder.layers.*", f"{place}.decoder"
    attention = tuple(f"{layer}.{ours}" for ours in _ATTENTION)
    return [
        *(row for row in rows if not row[0].startswith(attention)),
        *(
            (f"{layer}.{ours}.{part}", f"{place}.{layer}.{prefix}{name}_proj")
            for ours, prefix in _ATTENTION.items()
            for part, name in _PARTS
        ),
        (f"{layer}.self_attention.out", f"{place}.{layer}.self_attn.out_proj"),
        (f"{layer}.cross_attention.out", f"{place}.{layer}.{cross}.out_proj"),
        *((f"decoder.stretch.{2 * n}", f"{theirs}.query_scale.layers.{n}") for n in range(2)),
        *((f"point_head.{2 * n}", f"{theirs}.ref_point_head.layers.{n}") for n in range(2)),
        ("points", "points"),
    ]


ORIGINAL_CONDITIONAL = NameTable(
    "the original Conditional DETR", _conditional(FACEBOOK.rows, "transformer", "cross_attn")
)
OURS = NameTable("panodetr", [(ours, ours) for ours, _ in ORIGINAL_CONDITIONAL.rows])
TRANSFORMERS_TABLES = tuple(
    NameTable(
        f"transformers {version}{timm}",
        _renamed(_detr(2, "model", _APART, resnet, "model.backbone.conv_encoder.model"), changes),
    )
    for version, changes in ((4, ()), (5, _FILES_5), (5, _MODULES_5))
    for timm, resnet in ((" with timm", _TORCHVISION), ("", _TRANSFORMERS))
)
CONDITIONAL_TABLES = (
    ORIGINAL_CONDITIONAL,
    *(
        NameTable(
            f"{table.source}, Conditional DETR", _conditional(table.rows, "model", "encoder_attn")
        )
        for table in TRANSFORMERS_TABLES[:4]
    ),
)
"""`points` are in no file: the rows of `point_head`, which is not in our model, make them."""
TIMM_4, RESNET_4, TIMM_5_FILES, RESNET_5_FILES, TIMM_5, RESNET_5 = TRANSFORMERS_TABLES

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
"""Within each block of an EoMT: ours, transformers', the original's (timm's)."""

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

_OLD_SWIGLU: tuple[Row, ...] = (
    ("gate_proj", "weights_in"),
    ("up_proj", "weights_in"),
    ("down_proj", "weights_out"),
)
"""What transformers 5 renamed of 4, in its EoMT, and still writes so of DINOv2."""

_OLD_ATTENTION: tuple[Row, ...] = (
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.out_proj", "attention.output.dense"),
)
"""What DINOv2's files call the parts of an attention."""


def _rows(column: int, place: str = "", blocks: str = "layers") -> list[Row]:
    """List all names, ours and those of a column; the transformer stands at a place."""
    return [
        *((row[0], place + row[column]) for row in _VIT),
        *((f"backbone.blocks.*.{row[0]}", f"{place}{blocks}.*.{row[column]}") for row in _BLOCK),
        *((row[0], row[column]) for row in _HEADS),
    ]


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
            _OLD_ATTENTION + _OLD_SWIGLU,
        ),
    ],
    nested=["embeddings.position_embeddings"],
    unused=["embeddings.mask_token"],
)
"""Of files; the class token has a position there, the first."""
