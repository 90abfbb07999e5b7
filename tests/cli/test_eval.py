from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Program = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_table_shows_what_the_file_holds(
    panodetr: Program, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    done = panodetr("eval", "--model", tiny_model, "--data", data, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["classes"] == ["PQ", "SQ", "RQ", "F1"]
    for name, suffix in (("all", ""), ("things", "_things"), ("stuff", "_stuff")):
        expected = [f"{metrics[key + suffix]:.3f}" for key in ("pq", "sq", "rq", "f1")]
        assert rows[name] == expected
    assert metrics["images"] == 2


def test_a_split_that_is_not_there_is_one_line(
    panodetr: Program, tiny_model: Path, data: Path
) -> None:
    done = panodetr(
        "eval", "--model", tiny_model, "--data", data, "--split", "tset", "--out", "out"
    )
    assert done.returncode == 1
    assert "panoptic_tset.json is missing" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_of_other_classes_is_one_line(
    panodetr: Program, tiny_model: Path, data: Path
) -> None:
    file = data / "panoptic_val.json"
    file.write_text(file.read_text().replace('"nucleus"', '"cat"'))
    done = panodetr("eval", "--model", tiny_model, "--data", data, "--out", "out")
    assert done.returncode == 1
    assert "'nucleus' in the model and 'cat' in" in done.stderr
