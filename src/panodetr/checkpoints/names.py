"""Two-way tables between the names of our weights and those of other files.

A row pairs our name of a module with another's; `*` stands for a number that both share. One table
serves both directions, so that what is read can always be written again.

The tables are below: the original's `.pth` files (facebookresearch/detr), transformers, and
classifiers. Version 4 of transformers named the modules as its files on the hub do to this day.
Version 5 renamed the modules but still saves under the old names, except the learned positions,
which moved. The backbone is timm's or transformers' own ResNet.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

import torch

from panodetr.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    State: TypeAlias = Mapping[str, torch.Tensor]

Row: TypeAlias = tuple[str, str]
"""Our name and theirs."""

_Rules: TypeAlias = dict[str, list[tuple[list[str], str]]]

_NUMBER = re.compile(r"\d+")
_PLACE = re.compile(r"\d+|\*")
_PREFIX = "detr."  # panoptic models wrap the detector; their mask head stands beside it
_MASK_PARTS = ("bbox_attention.", "mask_head.")


class NameTable:
    """The names of one kind of file.

    Args:
        source: what the files come from, for messages.
        rows: each module's two names. Where several of ours have one name of theirs, as queries,
            keys and values in `torch.nn.MultiheadAttention`, ours are parts of their tensor, in the
            order of the rows.
    """

    def __init__(self, source: str, rows: Sequence[Row]) -> None:
        self.source = source
        self._outward = _rules(rows)
        self._inward = _rules((theirs, ours) for ours, theirs in rows)

    def to_ours(self, state: State, source: Path | str = "the file") -> dict[str, torch.Tensor]:
        """Give weights our names; counters of batch norms, which we do not have, are left out.

        Args:
            state: weights under their names.
            source: where they come from, for errors.

        Raises:
            CheckpointError: a name is in no row, or two weights would have one name.
        """
        ours: dict[str, torch.Tensor] = {}
        unknown: list[str] = []
        for key, tensor in without_counters(state):
            names = self._names(key)
            if not names:
                unknown.append(repr(key))
                continue
            if names[0] in ours:
                raise CheckpointError(
                    f"{source}: two weights are both {key!r}, with and without {_PREFIX!r}"
                )
            if len(names) > 1 and (tensor.ndim == 0 or len(tensor) % len(names)):
                raise CheckpointError(
                    f"{source}: {key!r} is {list(tensor.shape)}; expected queries, keys and "
                    "values of one width below each other"
                )
            parts = tensor.chunk(len(names)) if len(names) > 1 else [tensor]
            ours.update(zip(names, parts, strict=True))
        if unknown:
            raise CheckpointError(
                f"{source} holds {len(unknown)} tensors that no DETR of {self.source} has: "
                f"{preview(unknown)}"
            )
        return ours

    def from_ours(self, state: State) -> dict[str, torch.Tensor]:
        """Give our weights their names; the inverse of `to_ours`."""
        masks = any(key.startswith("mask_head.") for key in state)
        theirs: dict[str, torch.Tensor] = {}
        for key, _ in without_counters(state):
            names = _rename(self._outward, key)
            assert names, f"{self.source} has no row for {key}"
            name = names[0].replace("in_proj.", "in_proj_")
            parts = [state[part] for part in self._names(name)]
            if masks and not name.startswith(_MASK_PARTS):
                name = _PREFIX + name
            if name not in theirs:
                theirs[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
        return theirs

    def count_known(self, keys: Iterable[str]) -> int:
        """Count the names that the table has."""
        return sum(bool(self._names(key)) for key in keys)

    def _names(self, key: str) -> list[str]:
        """Give our names of a weight of theirs: none, one, or those of its parts."""
        plain = key.removeprefix(_PREFIX).replace("in_proj_", "in_proj.")
        return _rename(self._inward, plain)


def preview(names: Iterable[str], most: int = 3) -> str:
    """List the first few names, for a message."""
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def without_counters(state: State) -> Iterator[tuple[str, torch.Tensor]]:
    """Leave out how many batches a batch norm has seen: no inference needs it."""
    for key, tensor in state.items():
        if not key.endswith(".num_batches_tracked"):
            yield key, tensor


def _rules(rows: Iterable[Row]) -> _Rules:
    """Arrange one direction of a table by names with every number as `*`: few rows share one."""
    rules: _Rules = {}
    for before, after in rows:
        rules.setdefault(_NUMBER.sub("*", before), []).append((_PLACE.findall(before), after))
    return rules


def _rename(rules: _Rules, key: str) -> list[str]:
    """Rename a module by every row that has it; what follows, such as `weight`, is kept."""
    module, _, leaf = key.rpartition(".")
    numbers = _PLACE.findall(module)
    names: list[str] = []
    for places, after in rules.get(_NUMBER.sub("*", module), ()):
        pairs = list(zip(places, numbers, strict=True))
        if all(place in ("*", number) for place, number in pairs):
            for place, number in pairs:
                after = after.replace("*", number, 1) if place == "*" else after
            names.append(f"{after}.{leaf}")
    return names


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


def _transformers(source: str, resnet: Sequence[Row], changes: Sequence[Row]) -> NameTable:
    attention = ("q_proj", "k_proj", "v_proj", "out_proj")
    rows: list[Row] = []
    for ours, theirs in _detr(2, "model", attention, resnet, "model.backbone.conv_encoder.model"):
        for old, new in changes:
            theirs = theirs.replace(old, new)
        rows.append((ours, theirs))
    return NameTable(source, rows)


TORCHVISION = NameTable("torchvision", [(f"backbone.{a}", b) for a, b in _TORCHVISION])
"""Classifiers of torchvision, and of timm, which has the same names."""

TRANSFORMERS_CLASSIFIER = NameTable(
    "transformers", [(f"backbone.{a}", f"resnet.{b}") for a, b in _TRANSFORMERS]
)
_FUSED = ("in_proj", "in_proj", "in_proj", "out_proj")
FACEBOOK = NameTable(
    "the original implementation",
    _detr(1, "transformer", _FUSED, _TORCHVISION, "backbone.0.body"),
)
TRANSFORMERS_TABLES = tuple(
    _transformers(f"transformers {version}{timm}", resnet, changes)
    for version, changes in ((4, ()), (5, _FILES_5), (5, _MODULES_5))
    for timm, resnet in ((" with timm", _TORCHVISION), ("", _TRANSFORMERS))
)
TIMM_4, RESNET_4, TIMM_5_FILES, RESNET_5_FILES, TIMM_5, RESNET_5 = TRANSFORMERS_TABLES
