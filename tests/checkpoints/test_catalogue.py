from __future__ import annotations

from pathlib import Path

import pytest

from panodetr.checkpoints.published import bundled
from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec


@pytest.fixture
def models(tmp_path: Path, tiny_spec: ModelSpec) -> Path:
    folder = tmp_path / "models"
    for name in ("nuclei", "cells"):
        save_checkpoint(folder / name, tiny_spec, {})
    (folder / "notes").mkdir()
    return folder


def test_a_folder_with_a_configuration_is_a_bundled_model(models: Path) -> None:
    assert bundled(models) == {"cells": models / "cells", "nuclei": models / "nuclei"}
