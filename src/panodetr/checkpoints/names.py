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
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import torch

from panodetr.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    State: TypeAlias = Mapping[str, torch.Tensor]

Row: TypeAlias = tuple[str, str]
"""Our name and theirs."""

_Rules: TypeAlias = dict[str, list[tuple[re.Pattern[str], str]]]

_NUMBER = re.compile(r"\d+")
_PREFIX = "detr."  # panoptic models wrap the detector; their mask head stands beside it
_MASK_PARTS = ("bbox_attention.", "mask_head.")
_FUSED = re.compile(r"(.*\.)in_proj_(weight|bias)")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class NameTable:
    """The names of one kind of file.

    Attributes:
        source: what the files come from, for messages.
        rows: each module's two names.
        fused: whether queries, keys and values share one tensor, as in
            `torch.nn.MultiheadAttention`; the rows name its parts q_proj, k_proj and v_proj.
    """

    source: str
    rows: tuple[Row, ...]
    fused: bool = False

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
        for key, tensor in self._split(state, source):
            name = _rename(self._inward, key.removeprefix(_PREFIX))
            if name is None:
                unknown.append(repr(key))
            elif name in ours:
                raise CheckpointError(
                    f"{source}: two weights are both {key!r}, with and without {_PREFIX!r}"
                )
            else:
                ours[name] = tensor
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
        for key, tensor in _without_counters(state):
            name = _rename(self._outward, key)
            assert name is not None, f"{self.source} has no row for {key}"
            wrapped = masks and not name.startswith(_MASK_PARTS)
            theirs[_PREFIX + name if wrapped else name] = tensor
        return self._joined(theirs)

    def count_known(self, keys: Iterable[str]) -> int:
        """Count the names that the table has."""
        plain = (_FUSED.sub(r"\1q_proj.\2", key) if self.fused else key for key in keys)
        found = (_rename(self._inward, key.removeprefix(_PREFIX)) for key in plain)
        return sum(name is not None for name in found)

    @cached_property
    def _inward(self) -> _Rules:
        return _rules((theirs, ours) for ours, theirs in self.rows)

    @cached_property
    def _outward(self) -> _Rules:
        return _rules(self.rows)

    def _split(self, state: State, source: Path | str) -> Iterator[tuple[str, torch.Tensor]]:
        """Take fused projections apart."""
        for key, tensor in _without_counters(state):
            fused = _FUSED.fullmatch(key) if self.fused else None
            if fused is None:
                yield key, tensor
                continue
            if tensor.ndim == 0 or len(tensor) % 3:
                raise CheckpointError(
                    f"{source}: {key!r} is {list(tensor.shape)}; expected queries, keys and "
                    "values of one width below each other"
                )
            for name, part in zip(_PROJECTIONS, tensor.chunk(3), strict=True):
                yield f"{fused[1]}{name}.{fused[2]}", part

    def _joined(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Put fused projections together; the inverse of `_split`."""
        if not self.fused:
            return state
        joined: dict[str, torch.Tensor] = {}
        for key, tensor in state.items():
            above, _, leaf = key.rpartition(".")
            module, _, name = above.rpartition(".")
            if name == _PROJECTIONS[0]:
                parts = [state[f"{module}.{part}.{leaf}"] for part in _PROJECTIONS]
                joined[f"{module}.in_proj_{leaf}"] = torch.cat(parts)
            elif name not in _PROJECTIONS:
                joined[key] = tensor
        return joined


def best_table(tables: Sequence[NameTable], keys: Iterable[str]) -> NameTable | None:
    """Find the table that knows most of these names; None where none knows any."""
    listed = list(keys)
    best = max(tables, key=lambda table: table.count_known(listed))
    return best if best.count_known(listed) else None


def preview(names: Iterable[str], most: int = 3) -> str:
    """List the first few names, for a message."""
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def _without_counters(state: State) -> Iterator[tuple[str, torch.Tensor]]:
    """Leave out how many batches a batch norm has seen: no inference needs it."""
    for key, tensor in state.items():
        if not key.endswith(".num_batches_tracked"):
            yield key, tensor


def _rules(rows: Iterable[Row]) -> _Rules:
    """Compile one direction of a table, by names with every number as `*`: few rows share one."""
    rules: _Rules = {}
    for before, after in rows:
        pattern = re.compile(re.escape(before).replace(r"\*", r"(\d+)"))
        for place in range(1, before.count("*") + 1):
            after = after.replace("*", rf"\g<{place}>", 1)
        rules.setdefault(_NUMBER.sub("*", before), []).append((pattern, after))
    return rules


def _rename(rules: _Rules, key: str) -> str | None:
    """Rename a module; what follows its name, such as `weight`, is kept."""
    module, _, leaf = key.rpartition(".")
    for pattern, after in rules.get(_NUMBER.sub("*", module), ()):
        found = pattern.fullmatch(module)
        if found:
            return f"{found.expand(after)}.{leaf}"
    return None


_TORCHVISION_RESNET: tuple[Row, ...] = (
    ("stem_conv", "conv1"),
    ("stem_norm", "bn1"),
    *((f"stages.{s}.*.conv{c}", f"layer{s + 1}.*.conv{c}") for s in range(4) for c in (1, 2, 3)),
    *((f"stages.{s}.*.norm{c}", f"layer{s + 1}.*.bn{c}") for s in range(4) for c in (1, 2, 3)),
    *((f"stages.{s}.*.shortcut.*", f"layer{s + 1}.*.downsample.*") for s in range(4)),
)
"""The backbone's names in torchvision, which timm and the original share."""

_TRANSFORMERS_RESNET: tuple[Row, ...] = (
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

TORCHVISION = NameTable(
    "torchvision", tuple((f"backbone.{ours}", theirs) for ours, theirs in _TORCHVISION_RESNET)
)
"""Classifiers of torchvision, and of timm, which has the same names."""

TRANSFORMERS_CLASSIFIER = NameTable(
    "transformers",
    tuple((f"backbone.{ours}", f"resnet.{theirs}") for ours, theirs in _TRANSFORMERS_RESNET),
)

_OLD_MASKS: tuple[Row, ...] = (
    ("attention_maps.query", "bbox_attention.q_linear"),
    ("attention_maps.key", "bbox_attention.k_linear"),
    *((f"mask_head.convs.{n}", f"mask_head.lay{n + 1}") for n in range(5)),
    *((f"mask_head.norms.{n}", f"mask_head.gn{n + 1}") for n in range(5)),
    *((f"mask_head.adapters.{n}", f"mask_head.adapter{n + 1}") for n in range(3)),
    ("mask_head.out", "mask_head.out_lay"),
)
"""The mask head in the original, and in transformers 4 and its files."""

_NEW_MASKS: tuple[Row, ...] = (
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
"""The mask head in the models of transformers 5."""


def _attention(ours: str, theirs: str, out: str = "out_proj") -> tuple[Row, ...]:
    return (
        (f"{ours}.query", f"{theirs}.q_proj"),
        (f"{ours}.key", f"{theirs}.k_proj"),
        (f"{ours}.value", f"{theirs}.v_proj"),
        (f"{ours}.out", f"{theirs}.{out}"),
    )


def _transformers(
    source: str,
    resnet: tuple[Row, ...],
    *,
    backbone: str = "backbone.conv_encoder.model",
    positions: str = "position_embedding",
    out: str = "out_proj",
    ffn: str = "fc",
    masks: tuple[Row, ...] = _OLD_MASKS,
) -> NameTable:
    """Make a table of transformers; the versions differ in the names that are arguments."""
    encoder, decoder = "model.encoder.layers.*", "model.decoder.layers.*"
    return NameTable(
        source,
        (
            *((f"backbone.{ours}", f"model.{backbone}.{theirs}") for ours, theirs in resnet),
            ("positions.rows", f"model.{positions}.row_embeddings"),
            ("positions.columns", f"model.{positions}.column_embeddings"),
            ("project", "model.input_projection"),
            ("queries", "model.query_position_embeddings"),
            *_attention("encoder.layers.*.attention", f"{encoder}.self_attn", out),
            ("encoder.layers.*.attention_residual.norm", f"{encoder}.self_attn_layer_norm"),
            ("encoder.layers.*.ffn.0", f"{encoder}.{ffn}1"),
            ("encoder.layers.*.ffn.3", f"{encoder}.{ffn}2"),
            ("encoder.layers.*.ffn_residual.norm", f"{encoder}.final_layer_norm"),
            ("encoder.norm", "model.encoder.layernorm"),
            *_attention("decoder.layers.*.self_attention", f"{decoder}.self_attn", out),
            ("decoder.layers.*.self_residual.norm", f"{decoder}.self_attn_layer_norm"),
            *_attention("decoder.layers.*.cross_attention", f"{decoder}.encoder_attn", out),
            ("decoder.layers.*.cross_residual.norm", f"{decoder}.encoder_attn_layer_norm"),
            ("decoder.layers.*.ffn.0", f"{decoder}.{ffn}1"),
            ("decoder.layers.*.ffn.3", f"{decoder}.{ffn}2"),
            ("decoder.layers.*.ffn_residual.norm", f"{decoder}.final_layer_norm"),
            ("decoder.norm", "model.decoder.layernorm"),
            ("class_head", "class_labels_classifier"),
            *((f"box_head.{2 * n}", f"bbox_predictor.layers.{n}") for n in range(3)),
            *masks,
        ),
    )


def _version_4(source: str, resnet: tuple[Row, ...]) -> NameTable:
    return _transformers(source, resnet, positions="backbone.position_embedding")


def _version_5(source: str, resnet: tuple[Row, ...]) -> NameTable:
    return _transformers(
        source, resnet, backbone="backbone.model", out="o_proj", ffn="mlp.fc", masks=_NEW_MASKS
    )


TIMM_4 = _version_4("transformers 4 with timm", _TORCHVISION_RESNET)
RESNET_4 = _version_4("transformers 4", _TRANSFORMERS_RESNET)
TIMM_5_FILES = _transformers("transformers 5 with timm", _TORCHVISION_RESNET)
RESNET_5_FILES = _transformers("transformers 5", _TRANSFORMERS_RESNET)
TIMM_5 = _version_5("transformers 5 with timm", _TORCHVISION_RESNET)
RESNET_5 = _version_5("transformers 5", _TRANSFORMERS_RESNET)

TRANSFORMERS_TABLES = (TIMM_4, RESNET_4, TIMM_5_FILES, RESNET_5_FILES, TIMM_5, RESNET_5)

_ENCODER = "transformer.encoder.layers.*"
_DECODER = "transformer.decoder.layers.*"

FACEBOOK = NameTable(
    "the original implementation",
    (
        *(
            (f"backbone.{ours}", f"backbone.0.body.{theirs}")
            for ours, theirs in _TORCHVISION_RESNET
        ),
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
        *_OLD_MASKS,
    ),
    fused=True,
)
