"""Tensors from files, without running code from them."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeAlias, cast

import torch
from safetensors import SafetensorError, safe_open

from panodetr.checkpoints.names import State, is_counter
from panodetr.checkpoints.spec import WEIGHTS_FILES, WeightsIndex
from panodetr.errors import CheckpointError, preview, reason_of
from panodetr.validation import read_json

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")

_SMALL = 1 << 28
_MOST_SHARED = 10
"""Times that a pickled file's bytes may serve in its tensors, where they are not small: some share
weights, and a view of a single number may be of any size."""


Read: TypeAlias = Callable[[], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights in a file, none of which is read before `read` is called.

    Attributes:
        file: the file.
        tensors: by the names that they have in the file: of safetensors shapes alone, on the meta
            device; of a pickled file those of a copy of it in memory.
        arguments: what the model was trained with, where a pickled file has it under "args".
        unread: how each of the tensors is read, where they are not in memory.
    """

    file: Path
    tensors: State
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    unread: Mapping[torch.Tensor, Read] = field(default_factory=dict[torch.Tensor, Read])

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """Read one of the tensors into memory of its own.

        Raises:
            CheckpointError: the file was cut off since it was opened.
        """
        with _named(self.file):
            return self.unread[tensor]() if tensor in self.unread else tensor


def open_weights(place: Path) -> Weights:
    """Open weights.

    Args:
        place: a folder that has them under a usual name, a file of safetensors, an index
            (`….index.json`) of several files, or a pickled state dict, alone or under the key
            "model" of a training checkpoint.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, of another format, or holds
            anything that could run code.
    """
    places = [place / name for name in WEIGHTS_FILES] if place.is_dir() else [place]
    file = next((file for file in places if file.is_file()), place)
    if file.is_dir():
        raise CheckpointError(f"{place} holds no weights; expected {WEIGHTS_FILES[0]} in it")
    if file.suffix == ".json":
        return _open_index(file)
    _refuse_placeholder(file)
    return _open_safetensors(file) if file.suffix == ".safetensors" else _open_pickled(file)


def _open_safetensors(file: Path) -> Weights:
    with _named(file):
        # Not mapped into memory: who reads a mapped file that was cut off is killed.
        opened = safe_open(file, "pt", backend="pread")
        shapes = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    unread = {tensor: partial(opened.get_tensor, key) for key, tensor in tensors.items()}
    return Weights(file, tensors, unread=unread)


@contextmanager
def _named(file: Path) -> Generator[None]:
    """Say in one line which file is damaged."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is truncated or damaged ({error}); delete it and get it again"
        ) from error


def _open_pickled(file: Path) -> Weights:
    """Open a pickled state dict, alone or in a training checkpoint."""
    whole = _unpickle(file)
    state = whole.get("model", whole.get("state_dict", whole))
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{file} holds no state dict; expected one, alone or as 'model'")
    others = [
        repr(key)
        for key, value in cast("dict[object, object]", state).items()
        if not (isinstance(key, str) and isinstance(value, torch.Tensor))
    ]
    if others:
        raise CheckpointError(
            f"{file} holds other things than named tensors ({preview(others)}); "
            "expected a state dict, alone or as 'model'"
        )
    tensors, size = cast("State", state), file.stat().st_size
    if not all(tensor.is_cpu and tensor.layout == torch.strided for tensor in tensors.values()):
        raise CheckpointError(f"{file} holds sparse tensors, or shapes alone; expected values")
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > max(_SMALL, _MOST_SHARED * size):
        raise CheckpointError(
            f"{file} has {size:,} bytes and its tensors {total:,}; expected {_MOST_SHARED} times "
            "as many at most: save them with each tensor's own values"
        )
    arguments = whole.get("args")
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    if not isinstance(arguments, dict):
        arguments = {}
    whole_copy = partial(torch.clone, memory_format=torch.contiguous_format)
    unread = {tensor: partial(whole_copy, tensor) for tensor in tensors.values()}
    return Weights(file, tensors, cast("dict[str, Any]", arguments), unread)


@contextmanager
def _copied(file: Path) -> Generator[Path]:
    """Copy a file, into memory on Linux: who reads a mapped file that was cut off is killed."""
    if os.name == "nt":  # where a mapped file cannot be cut off
        yield file
        return
    in_memory = hasattr(os, "memfd_create")
    with (
        file.open("rb") as stream,
        open(os.memfd_create("weights"), "wb") if in_memory else NamedTemporaryFile() as copy,
    ):
        shutil.copyfileobj(stream, copy, 1 << 20)
        copy.flush()
        yield Path(f"/proc/self/fd/{copy.fileno()}" if in_memory else copy.name)


def _unpickle(file: Path) -> dict[str, Any]:
    """Read a pickled file as far as plain values and tensors go, and `argparse.Namespace`.

    The original's training checkpoints hold one.
    """
    # Files of PyTorch before 1.6 are no archives, and cannot be mapped into memory. Others are: of
    # a file that is not, PyTorch 2.8 believes the sizes that a damaged pickle names.
    with file.open("rb") as stream:
        mapped = stream.read(2) == b"PK"
    try:
        with (
            _copied(file) as copy,
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(),
        ):
            # PyTorch's own, about how it was pickled: what cannot be read is an error below.
            warnings.simplefilter("ignore")
            value: object = torch.load(copy, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle raises whatever its instructions run into
        line = "is truncated, damaged or not a PyTorch file; delete it and get it again"
        if isinstance(error, pickle.UnpicklingError) and (named := _GLOBAL.search(str(error))):
            line = (
                f"holds {named[1]}, and such objects can run code; if you trust it, read it once "
                f"with torch.load({file.name!r}, weights_only=False), and torch.save its state "
                "dict alone"
            )
        raise CheckpointError(f"{file} {line}") from error
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _open_index(index: Path) -> Weights:
    """Open the files that an index names, beside it."""
    names = read_json(index, WeightsIndex, CheckpointError).files
    if not names or any(Path(name).name != name or name.endswith(".json") for name in names):
        raise CheckpointError(
            f"{index} names the files {preview(names) or 'none'}; expected weights beside it"
        )
    parts = [open_weights(index.with_name(name)) for name in names]
    tensors = {key: value for part in parts for key, value in part.tensors.items()}
    unread = {key: value for part in parts for key, value in part.unread.items()}
    return Weights(index, tensors, unread=unread)


def check_shapes(file: Path, stored: State, expected: State) -> None:
    """Compare the names and shapes in a file with those of a model, as the file names them.

    Counters of batches that the model does not have are ignored.

    Raises:
        CheckpointError: naming the first few that differ.
    """
    faults = {
        "lacks {} tensors of its model": [repr(key) for key in expected if key not in stored],
        "holds {} tensors that its model does not have": [
            repr(key) for key in stored if key not in expected and not is_counter(key)
        ],
        "does not fit its configuration, {} tensors have another shape": [
            f"{key!r} is {list(stored[key].shape)}, expected {list(tensor.shape)}"
            for key, tensor in expected.items()
            if stored.get(key, tensor).shape != tensor.shape
        ],
    }
    for line, found in faults.items():
        if found:
            raise CheckpointError(f"{file} {line.format(len(found))}: {preview(found)}")


def _refuse_placeholder(file: Path) -> None:
    """Refuse a file that is not there, or that stands for one that was not fetched."""
    try:
        if not file.stat().st_size:  # a pipe would never end
            raise CheckpointError(f"{file} is truncated: it is empty, a device or a pipe")
        with file.open("rb") as stream:
            head = stream.read(40)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is not there") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {reason_of(error)}") from error
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file} is a Git LFS pointer, not the weights; run: git lfs pull")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise CheckpointError(f"{file} is a web page, not weights; download it again")
