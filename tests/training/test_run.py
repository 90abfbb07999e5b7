"""Runs from what is asked for to the model in the folder, in this process."""

from __future__ import annotations

import json
import shutil
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from panodetr.checkpoints.load import load_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.dataset import Dataset
from panodetr.errors import Interrupted, PanodetrError, TrainingError, UsageError
from panodetr.model.network import Network
from panodetr.training.folder import held
from panodetr.training.log import read_log
from panodetr.training.prepare import Request
from panodetr.training.run import Outcome, train
from panodetr.training.validate import Validation

from .conftest import Recording, save_start

TINY = (
    "steps=2", "batch_size=2", "save_every=1", "validate_every=1", "augmentation.size=48",
    "spec.preprocessing.tile=64", "spec.preprocessing.tile_overlap=16",
    "spec.architecture.encoder_layers=1", "spec.architecture.decoder_layers=1",
)  # fmt: skip


@pytest.fixture
def request_of(discs: Dataset) -> Request:
    return Request(recipe="nuclei", data=discs.folder, val="none", changes=TINY)


def go_on(out: Path, *changes: str, val: str | None = None) -> tuple[Outcome, Recording]:
    told = Recording()
    asked = Request(changes=changes, val=val)
    outcome = train(asked, out, resume=True, device="cpu", observer=told)
    assert outcome is not None
    return outcome, told


def test_a_run_is_written_by_one_process_and_what_is_refused_leaves_it_as_it_was(
    request_of: Request, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    others = out / ".writing-0123456789ab"  # that another command is at
    others.mkdir(parents=True)
    train(request_of, out, device="cpu")
    assert others.is_dir()
    before = {path: path.read_bytes() for path in (out / "config.json", out / "log.jsonl")}
    with held(out), pytest.raises(TrainingError, match="in use by another process") as caught:
        go_on(out, "steps=3")
    assert "\n" not in str(caught.value)
    with pytest.raises(TrainingError, match="resume with the run's own settings"):
        go_on(out, "token_weight=0")
    with pytest.raises(UsageError, match="holds a run already"):
        train(request_of, out, device="cpu")
    assert {path: path.read_bytes() for path in before} == before
    assert not (out / ".lock").exists()
    assert go_on(out, "steps=3")[0].steps == 3


def test_validation_can_be_left_out_and_taken_up_again(request_of: Request, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(replace(request_of, val="train"), out, device="cpu")
    outcome, told = go_on(out, "steps=3", val="none")
    assert outcome.steps == 3
    assert told.steps == []
    with pytest.raises(UsageError, match="begun with recipe"):
        train(replace(request_of, recipe="finetune", val=None), out, resume=True, device="cpu")
    with pytest.raises(UsageError, match="begun with val 'train', not 'other'"):
        go_on(out, val="other")
    outcome, told = go_on(out, val="train")
    assert told.steps == [3]  # the step that was done in between


@pytest.mark.parametrize("name", ["model", "best", "states", "log.jsonl"])
def test_a_new_run_replaces_nothing(request_of: Request, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=rf"{name} is there already.* choose another --out"):
        train(request_of, tmp_path, device="cpu")
    asked = replace(request_of, changes=(*TINY, "start=no-such-file"))
    with pytest.raises(PanodetrError, match="no-such-file"):
        train(asked, tmp_path / "new", device="cpu")
    assert not (tmp_path / "new").exists()


def test_a_new_run_takes_the_next_number_where_one_is_there_and_lists_what_it_holds_out(
    request_of: Request, discs: Dataset, tmp_path: Path
) -> None:
    changes = (*TINY, "steps=1")
    out, short = tmp_path / "run", replace(request_of, val=None, val_split=0.25, changes=changes)
    (tmp_path / "run-2" / "model").mkdir(parents=True)
    with held(tmp_path / "run-3"):
        told = Recording()
        for there in (out, tmp_path / "run-4"):
            outcome = train(short, out, numbered=True, device="cpu", observer=told)
            assert outcome is not None
            assert outcome.model == there / "model"
    assert told.notes[-1] == f"{out} holds another run, so this one is in {tmp_path / 'run-4'}"
    (line,) = (out / "held_out.txt").read_text().splitlines()
    assert (discs.folder / line).is_file()
    outcome, _ = go_on(out, "steps=2")
    assert (outcome.model, outcome.best) == (out / "model", out / "best")


@pytest.mark.parametrize("ends", ["whole", "stopped", "off"])
def test_a_checkpoint_is_validated_once_before_the_first_step(
    discs: Dataset, tiny_spec: ModelSpec, tmp_path: Path, ends: str
) -> None:
    start = save_start(tmp_path / "start", tiny_spec, categories=discs.categories)
    changes = ["steps=1", "batch_size=2", "short_side=64", start]

    class Told(Recording):
        def validated(self, validation: Validation, model: Network) -> None:
            super().validated(validation, model)
            if ends == "stopped":
                signal.raise_signal(signal.SIGTERM)

    told, out = Told(), tmp_path / "run"
    if ends == "off":
        changes.append("validate_start=false")
    asked = Request(recipe="finetune", data=discs.folder, val="train", changes=tuple(changes))
    with pytest.raises(Interrupted) if ends == "stopped" else nullcontext():
        train(asked, out, device="cpu", observer=told)
    assert told.steps == {"whole": [0, 1], "stopped": [0], "off": [1]}[ends]
    if ends == "stopped":
        (out / "states" / "00000001.pt").unlink()  # resumed from the state before the first step
        assert go_on(out)[1].steps == [1]
    steps = [line["step"] for line in read_log(out / "log.jsonl") if "validation" in line]
    assert steps == ([1] if ends == "off" else [0, 1])
    best = json.loads((out / "best" / "metrics.json").read_text())
    assert best["step"] == 1  # the best model is one that has learned


@pytest.mark.parametrize("recipe", ["finetune", "coco-panoptic-masks"])
def test_a_run_goes_on_without_the_checkpoint_that_it_started_from(
    discs: Dataset, tiny_spec: ModelSpec, tmp_path: Path, recipe: str
) -> None:
    start = save_start(tmp_path / "start", tiny_spec, categories=discs.categories)
    changes = ("steps=1", "batch_size=2", "workers=0", start)
    out = tmp_path / "run"
    asked = Request(recipe=recipe, data=discs.folder, val="none", changes=changes)
    train(asked, out, device="cpu")
    before = json.loads((out / "config.json").read_text())["config"]
    shutil.rmtree(tmp_path / "start")
    assert go_on(out, "steps=2")[0].steps == 2
    after = json.loads((out / "config.json").read_text())["config"]
    assert after == {**before, "steps": 2}
    with pytest.raises(PanodetrError, match="elsewhere"):  # another one is looked for
        go_on(out, "start=elsewhere")


@pytest.mark.parametrize("blocked", [False, True])
def test_a_run_that_fails_leaves_its_curves_and_the_reason(
    request_of: Request, tmp_path: Path, blocked: bool
) -> None:
    out = tmp_path / "run"
    if blocked:  # what fails while it is closed does not hide why it was closed
        (out / "results.png").mkdir(parents=True)
    diverging = ("log_every=1", "learning_rate=1e30", "clip=1e30", "warmup=0", "bad_steps=0")
    asked = replace(request_of, changes=(*TINY, *diverging, "decay=0", "steps=9"))
    told = Recording()
    with pytest.raises(TrainingError, match="not finite") as caught:
        train(asked, out, device="cpu", observer=told)
    assert read_log(out / "log.jsonl")[-1]["ended"] == str(caught.value)
    assert str(caught.value) not in told.notes  # whoever catches the error tells it
    assert (out / "results.png").is_file() is not blocked


def test_a_run_that_is_stopped_tells_so_once(request_of: Request, tmp_path: Path) -> None:
    class Stopping(Recording):
        def stepped(self, step: int) -> None:
            signal.raise_signal(signal.SIGTERM)

    told = Stopping()
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 1"):
        train(request_of, tmp_path / "run", device="cpu", observer=told)
    notes = [line.get("ended", "") for line in read_log(tmp_path / "run" / "log.jsonl")]
    for told_by in (notes, told.notes):
        assert sum("stopped by SIGTERM" in note for note in told_by) == 1


def test_everything_that_makes_a_step_cheaper_leaves_a_model_that_is_finite(
    request_of: Request, tmp_path: Path
) -> None:
    cheaper = ("precision=bfloat16", "accumulate=2", "checkpointing=true", "log_every=1")
    asked = replace(request_of, changes=(*TINY, *cheaper, "steps=1", "mask_start=0"))
    train(asked, tmp_path, device="cpu")
    outcome, _ = go_on(tmp_path, "steps=2")
    lines = [line for line in read_log(tmp_path / "log.jsonl") if "losses" in line]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(0 < line["losses"]["total"] < 1000 for line in lines)
    assert "dice" in lines[-1]["losses"]
    _, model = load_checkpoint(outcome.model)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
