from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

Program = Callable[..., "subprocess.CompletedProcess[str]"]


def test_an_unknown_recipe_is_one_line_with_the_known_ones(
    panodetr: Program, tmp_path: Path
) -> None:
    done = panodetr("train", "nucleii", "--data", tmp_path)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("panodetr: error: ")
    assert done.stderr.count("\n") == 1
    assert "nuclei" in done.stderr.replace("nucleii", "")


def test_missing_data_is_one_line(panodetr: Program, tmp_path: Path) -> None:
    done = panodetr("train", "nuclei", "--data", tmp_path / "nowhere")
    assert done.returncode == 1
    assert f"panodetr: error: {tmp_path / 'nowhere'}" in done.stderr
    assert done.stderr.count("\n") == 1
