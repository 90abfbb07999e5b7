from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from panodetr.cli import train
from panodetr.cli.output import duration
from panodetr.cli.train import TrainProgress, closing
from panodetr.model.config import detr_small
from panodetr.model.detr import Detr
from panodetr.training.log import Progress
from panodetr.training.prepare import Request
from panodetr.training.recipes import RECIPES
from panodetr.training.run import Outcome
from panodetr.training.validate import Validation

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
    assert "after 1 of 2 steps the best validation still scores 0" in lines.pop(2)
    assert [line.split()[1] for line in lines] == ["1/2", "1/2", "2/2", "2/2"]
    assert " rate " in lines[0]
    assert " left" in lines[0]
    assert "validation: thing PQ 0." in lines[1]
    run = Path("runs") / "train" / "nuclei"
    assert [line.partition(": ")[2].split() for line in done.stdout.splitlines()[-3:]] == [
        ["panodetr", "segment", f"{data / 'val' / '1.png'}", "--model", f"{run / 'best'}"],
        ["panodetr", "eval", "--data", f"{data}", "--model", f"{run / 'best'}"],
        ["panodetr", "export", f"{run / 'best'}", "--format", "onnx", "--out", "model.onnx.zip"],
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


def test_the_closing_commands_name_what_a_run_was_given() -> None:
    request = Request(data=Path("my data"), images=Path("seen"), val="val", scored="val")
    outcome = Outcome(
        request=request, image=Path("a.png"), model=Path("model"), best=Path("best"), score=0.5,
        masks=False, steps=2, planned=2,
    )  # fmt: skip
    lines = closing(outcome).splitlines()
    assert lines[1].split(maxsplit=2)[2] == "panodetr detect a.png --model best"
    assert lines[2].split(maxsplit=2)[2] == (
        'panodetr eval --data "my data" --split val --images seen --model best'
    )
    held_out = replace(outcome, request=replace(request, val=None, val_split=0.2))
    assert "panodetr eval" not in closing(held_out)
    assert f"held out are in {Path('best') / 'metrics.json'}" in closing(held_out)


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


def test_recipes_are_listed(panodetr: Program) -> None:
    done = panodetr("recipes")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(RECIPES)
    assert "start, epochs, validate_epochs, batch_size" in done.stdout
    for arguments in (("recipes",), ("recipes", "nuclei")):
        assert json.loads(panodetr(*arguments, "--json").stdout)
        assert panodetr(*arguments, "--quiet").stdout == ""


@pytest.mark.parametrize("name", ["coco-panoptic-masks", "finetune"])
def test_a_recipe_is_shown_in_full_as_it_is_set(panodetr: Program, name: str) -> None:
    done = panodetr("recipes", name, "--set", "criterion.giou=3")
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert {"clip=0.1", "criterion.giou=3.0"} <= set(shown)
    lines = [line for line in shown if not line.startswith("spec.categories=")]
    changes = [part for line in lines for part in ("--set", line)]
    again = panodetr("recipes", name, *changes)
    assert again.returncode == 0, again.stderr
    assert [line for line in again.stdout.splitlines() if not line.startswith("#")] == shown


def test_an_unknown_recipe_is_refused(panodetr: Program) -> None:
    done = panodetr("recipes", "coco")
    assert done.returncode == 2
    assert done.stderr.startswith("panodetr: error: there is no recipe 'coco'; ")
    assert done.stderr.count("\n") == 1
    assert "did you mean 'nuclei'?" in panodetr("recipes", "nuclie").stderr
    assert panodetr("recipes", "--set", "clip=1").returncode == 2


VALIDATION = Validation(
    step=20,
    score=0.25,
    measure="thing PQ",
    metrics={"pq": 0.5, "pq_things": 0.25, "pq_stuff": 0.75, "boxes": {"ap": 0.125, "ap50": 0.5}},
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Goes on when it is told."""
    clock = SimpleNamespace(now=1000.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(train, "time", clock)
    return clock


def watch(progress: TrainProgress, clock: SimpleNamespace, seen: Callable[[], None]) -> None:
    """Steps 11 to 30 of 40, two images and half a second each, and a validation of a minute."""
    with progress:
        progress.note("from nuclei")
        progress.begin(10, 40, 2)
        for step in range(11, 31):
            clock.now += 0.5
            progress.stepped(step)
            seen()
            if step == 20:
                progress.validating(1, 3)
                seen()
                clock.now += 60
                progress.validated(VALIDATION, Detr(detr_small(1)))
        progress.bad_step(30, [4, 5], {})
        progress.progress(
            Progress(
                step=30, losses={"total": 2.0}, learning_rate=1e-4, gradient_norm=1.0,
                images_per_second=4.0,
            )
        )  # fmt: skip


def test_without_a_terminal_it_is_lines(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    watch(TrainProgress(), clock, lambda: None)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "from nuclei",
        "going on after step 10",
        "step 20/40  validation: thing PQ 0.250  stuff PQ 0.750  PQ 0.500  box AP 0.125",
        "step 30 is skipped: a loss or gradient is not finite; its images: 4, 5",
        # Ten of thirty steps are left, of 3.5 seconds with a share of the validation each.
        "step 30/40  total 2.000  rate 1.0e-04  4.0 images/s  35 s left",
    ]


def test_on_a_terminal_a_bar_tells_speed_and_the_time_that_is_left(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take a pipe for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    progress = TrainProgress()
    seen: list[str] = []

    def look() -> None:
        assert progress.bar is not None
        progress.bar.refresh()
        seen.append(capsys.readouterr().err)

    watch(progress, clock, look)
    assert "learning" in seen[0]
    assert "11/40" in seen[0]
    assert "4.0 images/s  14 s left" in seen[0]
    assert "validating 1/3" in seen[10]
    # The validation is no learning, but takes its time.
    assert "21/40" in seen[11]
    assert "4.0 images/s  2 min left" in seen[11]
    assert "step 20/40  validation: thing PQ 0.250" in "".join(seen)


def test_times_are_written_as_people_say_them() -> None:
    assert [duration(s) for s in (0.4, 89, 90, 3600, 11100)] == [
        "0 s", "89 s", "2 min", "60 min", "3 h 05 min",
    ]  # fmt: skip
