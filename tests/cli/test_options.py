from __future__ import annotations

import json
from pathlib import Path

import pytest

from panodetr.cli.options import ModelOptions
from panodetr.errors import UsageError

from .conftest import Program


@pytest.mark.parametrize(
    ("tiles", "share", "expected"),
    [(None, None, (64, 16)), (100, None, (100, 25)), (100, 0.0, (100, 0)), (96, 0.5, (96, 48))],
)
def test_tiles_replace_the_models_own(
    tiny_model: Path, tiles: int | None, share: float | None, expected: tuple[int, int]
) -> None:
    rule = ModelOptions(model=str(tiny_model), tiles=tiles, overlap=share).load().spec.preprocessing
    assert (rule.tile, rule.tile_overlap) == expected


def test_tiles_that_are_invalid_are_refused() -> None:
    with pytest.raises(UsageError, match="--overlap is for --tiles; give both"):
        ModelOptions(overlap=0.5).load()
    with pytest.raises(UsageError, match="tiles of 8 pixels cannot overlap by 8"):
        ModelOptions(tiles=8, overlap=0.99).load()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", '[segment]\ntask = "semantic"\njson = true\n'),
        ("c.yaml", "segment:\n  task: semantic\n  json: true\n"),
    ],
)
def test_a_file_holds_options_and_the_command_line_wins(
    panodetr: Program, tmp_path: Path, tiny_model: Path, images: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    given = ("segment", images / "a.png", "--model", tiny_model, "--quiet", "--config", name)
    done = panodetr(*given)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["segments_info"]) <= 2  # one segment a class
    assert panodetr(*given, "--task", "instances").stdout != done.stdout


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", "[segment]\nthreshol = 1\n", "Did you mean --threshold?"),
        ("c.toml", "[segment\n", "cannot be read"),
        ("c.yaml", "segment: [", "cannot be read"),
        ("c.yaml", "- 1", "must be a mapping"),
        ("c.ini", "", "expected .toml or .yaml"),
        ("c.toml", "", "is empty"),
        ("none.toml", None, "is not a file"),
    ],
)
def test_a_faulty_file_is_one_line(
    panodetr: Program, tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    done = panodetr("segment", "a.png", "--config", name)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
