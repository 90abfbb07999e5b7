from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Program = Callable[..., "subprocess.CompletedProcess[str]"]


def test_rows_are_measured_shown_and_written(panodetr: Program, tmp_path: Path) -> None:
    done = panodetr("bench", "import", "help", "--repeats", "1", "--out", "figures.json")
    assert "python -c 'import panodetr'" in done.stdout
    assert "start: round 5 of 5" in done.stderr
    report = json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["import", "help"]
    assert all(len(row["ours"]["seconds"]) == 5 for row in report["rows"])
    assert report["machine"]["versions"]["torch"]
    # How fast this machine is now, others may also decide: the exit code says what the table says.
    assert done.returncode == (0 if all(row["holds"] for row in report["rows"]) else 1)


def test_a_row_that_fails_is_told_and_the_others_are_measured(panodetr: Program) -> None:
    done = panodetr("bench", "import", "int8-on-data", "--repeats", "1")
    assert done.returncode == 1
    assert "FAILED: int8-on-data: this row needs a data set" in done.stdout
    assert "python -c 'import panodetr'" in done.stdout
    assert "Traceback" not in done.stderr


def test_figures_that_cannot_be_written_are_not_measured(panodetr: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    done = panodetr("bench", "import", "--repeats", "1", "--out", "file/figures.json")
    assert done.returncode == 1
    assert done.stderr.startswith("panodetr: error: cannot write file/figures.json: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmnt"], "there is no row 'segmnt'"),
        (["import", "--repeats", "0"], "--repeats is 0; expected 1 or more"),
        (["import", "--threads", "-1"], "--threads is -1; expected 1 or more"),
    ],
)
def test_arguments_that_cannot_be_meant_are_exit_code_2(
    panodetr: Program, arguments: list[str], message: str
) -> None:
    done = panodetr("bench", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
