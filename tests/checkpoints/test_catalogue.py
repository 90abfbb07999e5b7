from __future__ import annotations

from pathlib import Path

import pytest

from panodetr.checkpoints.catalogue import bundled, resolve
from panodetr.checkpoints.native import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError


@pytest.fixture
def models(tmp_path: Path, tiny_spec: ModelSpec) -> Path:
    folder = tmp_path / "models"
    for name in ("nuclei", "cells"):
        save_checkpoint(folder / name, tiny_spec, {})
    (folder / "notes").mkdir()
    return folder


def test_a_folder_with_a_configuration_is_a_bundled_model(models: Path) -> None:
    assert bundled(models) == {"cells": models / "cells", "nuclei": models / "nuclei"}


def test_a_bundled_name_wins_over_a_folder_here(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei").mkdir()
    assert resolve("nuclei", models) == models / "nuclei"
    assert resolve("./nuclei", models).resolve() == tmp_path / "nuclei"
    assert resolve(Path("nuclei"), models).resolve() == tmp_path / "nuclei"


def test_an_unknown_name_is_an_error_with_the_near_one(models: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"'nucleii' is neither .*; did you mean 'nuclei'\? .*: cells, nuclei"
    ):
        resolve("nucleii", models)


def test_an_unknown_name_far_from_all_is_an_error_with_the_list(models: Path) -> None:
    with pytest.raises(CheckpointError, match="a folder; bundled: cells, nuclei"):
        resolve("https://example.org", models)
