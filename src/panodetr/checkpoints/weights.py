"""Tensors from files, without running code from them."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from safetensors import SafetensorError, safe_open

from panodetr.checkpoints.names import preview
from panodetr.errors import CheckpointError

State: TypeAlias = dict[str, torch.Tensor]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILES = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLED, f"{PICKLED}.index.json")
"""Where transformers keeps weights: in one file or, with an index, in several; best first."""

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read_weights(file: Path) -> State:
    """Read a file's tensors, on the CPU, under the names that it has.

    Args:
        file: `.safetensors`, an index (`….index.json`) of several files, or a pickled state dict,
            alone or under the key "model" of a training checkpoint.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, of another format, or holds
            anything that could run code.
    """
    if file.suffix == ".json":
        return _read_shards(file)
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    return read_pickled(file)[0]


def read_safetensors(file: Path, expected: Shapes | None = None) -> State:
    """Read a safetensors file, its names and shapes checked before any weight is read.

    Raises:
        CheckpointError: the file is missing, truncated or damaged, or its tensors are not the
            expected ones.
    """
    _refuse_stand_in(file)
    try:
        with safe_open(file, framework="pt") as stored:
            keys = stored.keys()
            if expected is not None:
                shapes = {key: tuple(stored.get_slice(key).get_shape()) for key in keys}
                check_shapes(file, shapes, expected)
            return {key: cast("torch.Tensor", stored.get_tensor(key)) for key in keys}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is truncated or damaged ({error}); delete it and get it again"
        ) from error


def read_pickled(file: Path) -> tuple[State, dict[str, Any]]:
    """Read a pickled state dict, and the arguments that it was trained with where they are there.

    Nothing but tensors, plain values and `argparse.Namespace` is accepted: the original's training
    checkpoints hold one.

    Raises:
        CheckpointError: as for `read_weights`.
    """
    _refuse_stand_in(file)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # PyTorch's own, about how it was pickled: what cannot be read is an error below.
            warnings.simplefilter("ignore")
            value: object = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _GLOBAL.search(str(error))
        if named is None:
            raise CheckpointError(_damaged(file)) from error
        raise CheckpointError(
            f"{file} holds {named[1]}, and such objects can run code; where you trust it, read it "
            f"once with torch.load({file.name!r}, weights_only=False), and torch.save its "
            "state dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(_damaged(file)) from error
    whole = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    state = whole.get("model", whole)
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{file} holds no state dict; expected one, alone or as 'model'")
    state = cast("dict[Any, object]", state)
    strangers = [repr(key) for key, tensor in state.items() if not isinstance(tensor, torch.Tensor)]
    if strangers or not all(isinstance(key, str) for key in state):
        raise CheckpointError(
            f"{file} holds other things than named tensors "
            f"({preview(strangers) or 'names no text'}); "
            "expected a state dict, alone or as 'model'"
        )
    arguments = whole.get("args")
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    return cast("State", state), arguments if isinstance(arguments, dict) else {}


def check_shapes(file: Path, stored: Shapes, expected: Shapes) -> None:
    """Check names and shapes against what a model has, both as the file names them.

    Raises:
        CheckpointError: naming the first few that differ.
    """
    missing = [repr(key) for key in expected if key not in stored]
    if missing:
        raise CheckpointError(
            f"{file} lacks {len(missing)} tensors of its model: {preview(missing)}"
        )
    unknown = [repr(key) for key in stored if key not in expected]
    if unknown:
        raise CheckpointError(
            f"{file} holds {len(unknown)} tensors that its model does not have: {preview(unknown)}"
        )
    wrong = [
        f"{key!r} is {list(stored[key])}, expected {list(shape)}"
        for key, shape in expected.items()
        if tuple(stored[key]) != tuple(shape)
    ]
    if wrong:
        raise CheckpointError(
            f"{file} does not fit its configuration, {len(wrong)} tensors have another shape: "
            f"{preview(wrong)}"
        )


def shapes_of(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """List the shapes of tensors."""
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _read_shards(index: Path) -> State:
    """Read the files that an index names, beside it."""
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        files = [index.with_name(name) for name in sorted(names)]  # refuses other folders
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of weights: {error!r}") from error
    state: State = {}
    for file in files:
        state.update(read_weights(file))
    return state


def _refuse_stand_in(file: Path) -> None:
    """Refuse a file that is not there, or that stands for one that was not fetched."""
    try:
        with file.open("rb") as stream:
            head = stream.read(40)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is not there") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file} is a Git LFS pointer, not the weights; run: git lfs pull")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise CheckpointError(f"{file} is a web page, not weights; download it again")


def _damaged(file: Path) -> str:
    return f"{file} is truncated, damaged or no PyTorch file; delete it and get it again"
