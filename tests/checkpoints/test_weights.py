from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from panodetr.checkpoints.weights import Weights, open_weights
from panodetr.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.zeros(2)}


def same(weights: Weights) -> bool:
    state = {key: weights.read(tensor) for key, tensor in weights.tensors.items()}
    return state.keys() == STATE.keys() and all(torch.equal(state[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "as torch 1.5 wrote"])
def test_pickled_weights_are_read(tmp_path: Path, zipped: bool) -> None:
    arguments = argparse.Namespace(dilation=True, lr=1e-4, masks=False, device="cuda")
    for whole in (STATE, {"model": STATE, "epoch": 3}, {"model": STATE, "args": arguments}):
        torch.save(whole, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        weights = open_weights(tmp_path / "a.pth")
        assert same(weights)
    assert weights.arguments["dilation"] is True


@pytest.mark.parametrize(
    ("stranger", "name"),
    [
        (os.mkdir, r"posix\.mkdir"),
        (Path("/etc"), r"pathlib\.\w+"),
        (torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        (np.float64(0.5), r"numpy\.\S+"),
        (argparse.Namespace(out=Path("x")), r"pathlib\.\w+"),
    ],
    ids=["a function", "a path", "a module", "a numpy number", "a path in the arguments"],
)
def test_anything_that_could_run_code_is_refused(
    tmp_path: Path, stranger: object, name: str
) -> None:
    file = tmp_path / "a.pth"
    torch.save({"model": STATE, "args": stranger}, file)
    with pytest.raises(CheckpointError, match=rf"a\.pth holds {name}, .* can run code; .* alone"):
        open_weights(file)


def test_a_pickle_that_runs_code_does_not_run_it(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    torch.save({"model": Attack()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="can run code"):
        open_weights(tmp_path / "a.pth")
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["zip", "as torch 1.5 wrote", "safetensors"])
def test_truncated_files_are_named(tmp_path: Path, kind: str) -> None:
    file = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    if kind == "safetensors":
        save_file(STATE, file)
    else:
        torch.save(STATE, file, _use_new_zipfile_serialization=kind == "zip")
    contents = file.read_bytes()
    for part in (0.0, 0.02, 0.3, 0.5, 0.9, 0.99):
        file.write_bytes(contents[: int(part * len(contents))])
        with pytest.raises(CheckpointError, match=rf"{file.name} is truncated"):
            open_weights(file)


def test_safetensors_that_are_cut_off_while_they_are_read_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file(STATE, file)
    weights = open_weights(file)
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"a\.safetensors is truncated"):
        same(weights)


@pytest.mark.parametrize("zipped", [True, False])
@given(seed=st.integers(0, 2**32))
def test_damaged_files_are_one_line_or_weights(
    tmp_path_factory: pytest.TempPathFactory, seed: int, zipped: bool
) -> None:
    chance = random.Random(seed)
    file = tmp_path_factory.mktemp("damaged") / "a.pth"
    torch.save(STATE, file, _use_new_zipfile_serialization=zipped)
    contents = bytearray(file.read_bytes())
    for _ in range(chance.choice([1, 3, 20])):
        contents[chance.randrange(len(contents))] = chance.randrange(256)
    file.write_bytes(contents)
    message = ""
    try:
        [tensor.clone() for tensor in open_weights(file).tensors.values()]
    except CheckpointError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"<!DOCTYPE html><html>404", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer.*lfs pull"),
        (b"hello", "is truncated"),
        (b"\x80\x04\x95pickle", "is truncated"),  # of a protocol that PyTorch warns about
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_files_that_are_no_weights_are_named(
    tmp_path: Path, contents: bytes, message: str, name: str
) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_weights(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_without_a_state_dict_is_named(tmp_path: Path) -> None:
    for value, message in (
        ([1, 2], "holds no state dict"),
        ({"model": [STATE]}, "holds no state dict"),
        ({}, "holds no state dict"),
        ({"model": {**STATE, "names": "abc"}}, r"other things than named tensors \('names'\)"),
        ({3: torch.ones(1)}, r"other things than named tensors \(3\)"),
    ):
        torch.save(value, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=message):
            open_weights(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(1).expand(10**6, 10**6), "its tensors 4,000,000,000,032; expected 10 times"),
        (torch.zeros(3).to_sparse(), "sparse tensors"),
        (torch.zeros(3, device="meta"), "or shapes alone"),
    ],
    ids=["expanded", "sparse", "meta"],
)
def test_tensors_without_values_of_their_own_are_refused(
    tmp_path: Path, tensor: torch.Tensor, message: str
) -> None:
    torch.save(STATE | {"more": tensor}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        open_weights(tmp_path / "a.pth")


def test_weights_in_several_files_are_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    places = {"a.weight": "model-1.safetensors", "a.bias": "model-2.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for key, name in places.items():
        save_file({key: STATE[key]}, tmp_path / name)
    assert same(open_weights(index))
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors is not there"):
        open_weights(index)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"weight_map": {"a": 3}}', r"weight_map\[\.\.\.\]: expected str, got int"),
        ('{"weight_map": {}}', "names the files none"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "expected weights beside it"),
        ('{"weight_map": {"a": "model.safetensors.index.json"}}', "expected weights beside it"),
    ],
)
def test_a_broken_index_is_named(tmp_path: Path, text: str, message: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(CheckpointError, match=message):
        open_weights(index)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets nobody cut off a mapped file")
@pytest.mark.parametrize("in_memory", [True, False])  # not so on macOS
def test_a_pickled_file_that_is_cut_off_after_it_was_opened_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = tmp_path / "a.pth"
    torch.save({"weight": torch.ones(8, 2**20)}, file)
    weights = open_weights(file)
    os.truncate(file, 100)
    (weight,) = weights.tensors.values()
    assert int(weights.read(weight).sum()) == 8 * 2**20
    assert [*tmp_path.iterdir()] == [file]
