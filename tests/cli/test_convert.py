from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from panodetr.checkpoints.load import load_checkpoint
from panodetr.checkpoints.spec import read_spec


def test_a_model_goes_to_transformers_and_back(
    panodetr: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    there = panodetr("convert", tiny_model, "theirs", "--to", "huggingface")
    assert there.returncode == 0, there.stderr
    assert "3 classes, 5 queries, masks: yes" in there.stdout
    back = panodetr("convert", "theirs", "ours")
    assert back.returncode == 0, back.stderr
    assert "theirs: " in back.stdout
    before, after = load_checkpoint(tiny_model)[1], load_checkpoint(tmp_path / "ours")[1]
    state = before.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in after.state_dict().items())
    assert read_spec(tmp_path / "ours").categories == read_spec(tiny_model).categories


def test_a_format_without_a_place_for_the_model_is_one_line(
    panodetr: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    done = panodetr("convert", tiny_model, "a.pth", "--to", "facebook")
    assert done.returncode == 1
    assert done.stderr.startswith("panodetr: error: tiny cannot be saved as facebook: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "a.pth").exists()


def test_an_unknown_format_is_a_usage_error(panodetr: Callable[..., Any]) -> None:
    assert panodetr("convert", "a", "b", "--to", "onnx").returncode == 2
