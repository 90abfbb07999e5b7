from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Program

SHORT = (
    "--split", "val", "--set", "batch_size=1", "--set", "log_every=1", "--set", "steps=2",
    "--set", "validate_every=1", "--set", "mask_start=1", "--set", "warmup=0", "--set", "decay=0",
)  # fmt: skip


@pytest.mark.slow
def test_a_run_tells_every_line_and_leaves_a_folder_that_can_be_looked_at(
    program: Program, data: Path, tmp_path: Path
) -> None:
    done = program("train", "nuclei", "--data", data, *SHORT)
    assert done.returncode == 0, done.stderr
    told, *lines = done.stderr.splitlines()
    assert "2 of the 2 images to validate with are also learned from" in told
    assert [line.split()[1] for line in lines] == ["1/2", "1/2", "2/2", "2/2"]
    assert " rate " in lines[0]
    assert " left" in lines[0]
    assert "validation: thing PQ 0." in lines[1]
    run = Path("runs") / "train" / "nuclei"
    assert done.stdout.rstrip().endswith(f"try it: panodetr segment IMAGE --model {run / 'best'}")
    there = {path.name for path in (tmp_path / run).iterdir()}
    assert there == {
        "best", "config.json", "log.jsonl", "model", "pictures", "results.png", "states",
        "tensorboard",
    }  # fmt: skip
    record = json.loads((tmp_path / run / "config.json").read_text())
    assert record["recipe"] == "nuclei"
    assert record["config"]["batch_size"] == 1

    done = program("segment", data / "val" / "1.png", "--model", tmp_path / run / "best")
    assert done.returncode == 0, done.stderr
    done = program("train", "nuclei", "--data", data, *SHORT)
    assert done.returncode == 2
    assert "holds a run already" in done.stderr
    done = program("train", "--resume", "--set", "steps=3")  # the newest run, one step more
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[1] == "going on after step 2"
    assert "step 3/3" in done.stderr


def test_a_rehearsal_writes_nothing(panodetr: Program, data: Path, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    done = panodetr("train", "nuclei", "--data", data, *SHORT, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "2 to learn from, 2 to validate with" in done.stdout
    assert "GiB at the peak" in done.stdout
    assert "warning: 2 steps of 1 images are very few" in done.stdout
    assert set(tmp_path.rglob("*")) == before


def test_a_rehearsal_names_what_is_wrong_with_the_data(panodetr: Program, data: Path) -> None:
    image = data / "val" / "2.png"
    image.write_bytes(image.read_bytes()[:100])
    done = panodetr("train", "nuclei", "--data", data, *SHORT, "--dry-run")
    assert done.returncode == 1
    assert "error in the data: " in done.stdout
    assert "2.png" in done.stdout


def test_the_format_of_the_data_may_be_named(panodetr: Program, data: Path) -> None:
    done = panodetr("train", "nuclei", "--data", data, "--format", "coco-instances", *SHORT)
    assert done.returncode == 1
    assert f"{data} holds no data set in the format coco-instances" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nucleii", "--data", "."), "there is no recipe 'nucleii'"),
        (("nuclei",), "expected RECIPE and --data FOLDER, or --resume"),
        (("--resume", "--split", "train"), "--split train is for a new run"),
        (("--resume", "--format", "yolo"), "--format yolo is for a new run"),
        (("--resume", "--dry-run"), "--dry-run rehearses a new run"),
        (("nuclei", "--data", ".", "--out", "a", "--name", "b"), "give --out or --name"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    panodetr: Program, words: tuple[str, ...], message: str
) -> None:
    done = panodetr("train", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("panodetr: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stepss=2", "'stepss'"),
        ("steps", "field=value"),
        ("steps=many", "'steps=many'"),
        ("accumulate=3", "expected a multiple of 3"),
    ],
)
def test_a_change_that_makes_no_sense_is_one_line(
    panodetr: Program, data: Path, change: str, message: str
) -> None:
    done = panodetr("train", "nuclei", "--data", data, "--split", "val", "--set", change)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nuclei", "--data", "nowhere"), "nowhere"),
        (("--resume",), "holds no run to resume"),
        (("--resume", "--out", "nowhere"), "nowhere holds no run to resume"),
    ],
)
def test_what_is_not_there_is_one_line(
    panodetr: Program, words: tuple[str, ...], message: str
) -> None:
    done = panodetr("train", *words)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
