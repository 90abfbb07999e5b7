"""Two-way tables between the names of our weights and those of other files.

A row pairs our name of a module with another's; `*` stands for a number that both share. One table
serves both directions, so that what is read can always be written again.
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

    State: TypeAlias = Mapping[str, torch.Tensor]

Row: TypeAlias = tuple[str, str]
"""Our name and theirs."""

_Rules: TypeAlias = dict[str, list[tuple[re.Pattern[str], str]]]

_NUMBER = re.compile(r"\d+")
_PREFIX = "detr."  # panoptic models wrap the detector; their mask head stands beside it
_MASK_PARTS = ("bbox_attention.", "mask_head.")
_FUSED = re.compile(r"(.*\.)in_proj_(weight|bias)")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")

TORCHVISION_RESNET: tuple[Row, ...] = (
    ("stem_conv", "conv1"),
    ("stem_norm", "bn1"),
    *((f"stages.{s}.*.conv{c}", f"layer{s + 1}.*.conv{c}") for s in range(4) for c in (1, 2, 3)),
    *((f"stages.{s}.*.norm{c}", f"layer{s + 1}.*.bn{c}") for s in range(4) for c in (1, 2, 3)),
    *((f"stages.{s}.*.shortcut.*", f"layer{s + 1}.*.downsample.*") for s in range(4)),
)
"""The backbone's names in torchvision, which timm and the original share."""


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

    def to_ours(self, state: State) -> dict[str, torch.Tensor]:
        """Give weights our names; counters of batch norms, which we do not have, are left out.

        Raises:
            CheckpointError: a name is in no row, or two weights would have one name.
        """
        ours: dict[str, torch.Tensor] = {}
        unknown: list[str] = []
        for key, tensor in self._split(state):
            name = _rename(self._inward, key.removeprefix(_PREFIX))
            if name is None:
                unknown.append(key)
            elif name in ours:
                raise CheckpointError(f"two weights are both {key!r}, with and without {_PREFIX!r}")
            else:
                ours[name] = tensor
        if unknown:
            raise CheckpointError(
                f"holds {len(unknown)} tensors that no DETR of {self.source} has: "
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

    def _split(self, state: State) -> Iterator[tuple[str, torch.Tensor]]:
        """Take fused projections apart."""
        for key, tensor in _without_counters(state):
            fused = _FUSED.fullmatch(key) if self.fused else None
            if fused is None:
                yield key, tensor
                continue
            if tensor.ndim == 0 or len(tensor) % 3:
                raise CheckpointError(
                    f"{key!r} is {list(tensor.shape)}; expected queries, keys and values of one "
                    "width below each other"
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
