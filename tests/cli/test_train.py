from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Program = Callable[..., "subprocess.CompletedProcess[str]"]
SHORT = ("--split", "val", "--set", "batch_size=1", "--set", "log_every=1", "--set", "steps=2")


def test_a_run_reports_every_line_and_leaves_a_model_that_segments(
    panodetr: Program, data: Path, tmp_path: Path
) -> None:
    done = panodetr("train", "nuclei", "--data", data, "--out", tmp_path / "run", *SHORT)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["1/2", "2/2"]
    assert " rate " in done.stderr
    assert str(tmp_path / "run" / "model") in done.stdout
    done = panodetr("segment", data / "val" / "1.png", "--model", tmp_path / "run" / "model")
    assert done.returncode == 0, done.stderr


def test_an_unknown_recipe_is_one_line_with_the_known_ones(
    panodetr: Program, tmp_path: Path
) -> None:
    done = panodetr("train", "nucleii", "--data", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("panodetr: error: there is no recipe 'nucleii'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [("stepss=2", "'stepss'"), ("steps", "field=value"), ("steps=many", "'steps=many'")],
)
def test_a_change_that_makes_no_sense_is_one_line(
    panodetr: Program, data: Path, change: str, message: str
) -> None:
    done = panodetr("train", "nuclei", "--data", data, "--split", "val", "--set", change)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_data_is_one_line(panodetr: Program, tmp_path: Path) -> None:
    done = panodetr("train", "nuclei", "--data", tmp_path / "nowhere")
    assert done.returncode == 1
    assert f"panodetr: error: {tmp_path / 'nowhere'}" in done.stderr
    assert done.stderr.count("\n") == 1
