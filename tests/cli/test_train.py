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
    assert "after 1 of 2 steps validation still finds nothing" in lines.pop(2)
    assert [line.split()[1] for line in lines] == ["1/2", "1/2", "2/2", "2/2"]
    assert " rate " in lines[0]
    assert " left" in lines[0]
    assert "validation: thing PQ 0." in lines[1]
    run = Path("runs") / "train" / "nuclei"
    assert [line.partition(": ")[2].split() for line in done.stdout.splitlines()[-3:]] == [
        ["panodetr", "segment", "IMAGE", "--model", f"{run / 'best'}"],
        ["panodetr", "eval", "--data", f"{data}", "--model", f"{run / 'best'}"],
        ["panodetr", "export", f"{run / 'best'}", "--format", "onnx"],
    ]
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
    assert done.returncode == 0, done.stderr
    assert f"{run} holds another run, so this one is in {run}-2" in done.stderr
    words = ("nuclei", "--data", data, *SHORT, "--out", run)
    done = program("train", *words)
    assert done.returncode == 2
    assert "holds a run already" in done.stderr
    done = program("train", "--resume", "--set", "steps=3")  # the newest run, one step more
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[1] == "going on after step 2"
    assert "step 3/3" in done.stderr


def test_a_rehearsal_names_what_is_wrong_with_the_data_and_writes_nothing(
    panodetr: Program, data: Path, tmp_path: Path
) -> None:
    before = set(tmp_path.rglob("*"))
    done = panodetr("train", "nuclei", "--data", data, *SHORT, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "2 to learn from, 2 to validate with" in done.stdout
    assert "GiB at the peak" in done.stdout
    assert "warning: 2 steps of 1 images are very few" in done.stdout
    assert set(tmp_path.rglob("*")) == before
    image = data / "val" / "2.png"
    image.write_bytes(image.read_bytes()[:100])
    done = panodetr("train", "nuclei", "--data", data, *SHORT, "--dry-run")
    assert done.returncode == 0
    assert "note: " in done.stdout
    assert "2.png" in done.stdout
    done = panodetr("train", "nuclei", "--data", data, *SHORT, "--dry-run", "--set", "bad_images=0")
    assert done.returncode == 1
    assert "1 of 2 images cannot be read" in done.stderr


NEW = ("nuclei", "--data", "data", "--split", "val")
TUNE = ("finetune", *NEW[1:], "--set", "start=nuclei")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nucleii", "--data", "."), 2, "there is no recipe 'nucleii'"),
        (("nuclei",), 2, "expected RECIPE and --data FOLDER, or --resume"),
        (("--resume", "--map", "a=b"), 2, "--map is for a new run"),
        (("nuclei", "--data", ".", "--map", "a"), 2, "--map a: expected DATA=MODEL"),
        (("nuclei", "--data", ".", "--val-split", "1"), 2, "--val-split"),
        ((*NEW, "--val-split", "0.1"), 2, "--val-split 0.1 of 2 images holds out 0"),
        ((*NEW, "--class", "cell"), 2, "--class cell is for id maps"),
        ((*NEW, "--map", "nucleus=nuclei"), 2, "class_map (--map) joins classes to"),
        ((*TUNE, "--map", "nucleu=nucleus"), 2, "the data has no class 'nucleu'; did you mean"),
        ((*TUNE, "--map", "nucleus=nuclei"), 2, "nuclei has no class 'nuclei'; did you mean"),
        (("--resume", "--dry-run"), 2, "--dry-run rehearses a new run"),
        (("nuclei", "--data", ".", "--out", "a", "--name", "b"), 2, "give --out or --name"),
        ((*NEW, "--set", "stepss=2"), 2, "'stepss'"),
        ((*NEW, "--set", "steps"), 2, "field=value"),
        ((*NEW, "--set", "steps=many"), 2, "'steps=many'"),
        ((*NEW, "--set", "accumulate=3"), 2, "expected a multiple of 3"),
        ((*NEW, "--format", "coco-instances"), 1, "data holds no data set in the format coco-inst"),
        (("nuclei", "--data", "nowhere"), 1, "nowhere"),
        (("--resume",), 1, "holds no run to resume"),
        (("nuclei", "--data", ".", "--resume"), 1, "holds no run called nuclei to resume"),
        (("--resume", "--out", "nowhere"), 1, "nowhere holds no run to resume"),
    ],
)
@pytest.mark.usefixtures("data")
def test_what_cannot_be_meant_or_is_not_there_is_one_line(
    panodetr: Program, words: tuple[str, ...], code: int, message: str
) -> None:
    done = panodetr("train", *words)
    assert done.returncode == code
    assert done.stderr.startswith("panodetr: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
