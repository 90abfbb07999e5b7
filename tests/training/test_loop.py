from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from accelerate import Accelerator
from tests.shapes import as_detr
from torch import Tensor
from torch.testing import assert_close

from panodetr.checkpoints.load import load_checkpoint
from panodetr.data.dataset import Dataset
from panodetr.errors import DataError, Interrupted, TrainingError
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.objective.targets import Batch
from panodetr.training import loop
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.processes import StopSignal, join_ranks
from panodetr.training.start import make_state
from panodetr.training.state import TrainState, seed_step
from panodetr.training.step import (
    StepResult,
    collate_step,
    count_step,
    explain_oom,
    read_steps,
    train_step,
)
from panodetr.training.validate import Validation

from .conftest import Recording, Runner, assert_identical, weights, write_discs

CPU = torch.device("cpu")


def first_step(config: TrainConfig, data: Dataset) -> list[Batch]:
    return collate_step(config, data, next(read_steps(config, data)))


def one_step(
    config: TrainConfig, parts: list[Batch], accelerator: Accelerator
) -> tuple[TrainState, StepResult]:
    state = make_state(config, CPU, print)
    seed_step(config.seed, 0, 0)
    return state, train_step(state.learner, state, parts, config, accelerator)


def gradients(state: TrainState) -> dict[str, Tensor]:
    named = state.learner.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def test_a_resumed_run_is_bit_exact_and_the_seed_decides_everything(
    tiny_run: TrainConfig, run: Runner
) -> None:
    config = replace(tiny_run, ema=0.9)
    straight, _ = run(config, "straight")
    run(replace(config, steps=3), "stopped")
    torch.manual_seed(99)  # another process would not have the random numbers of this one
    resumed, told = run(config, "stopped")
    assert_identical(weights(resumed), weights(straight))
    assert [line.step for line in told.lines] == [4, 6]
    other = run(replace(config, seed=1, steps=3), "other")[0].learner.model
    third = RunFolder(run.place / "stopped").states / "00000003.pt"
    before = torch.load(third, weights_only=True)["learner"]["model.project.weight"]
    assert not torch.equal(as_detr(other).project.weight, before)


@pytest.mark.parametrize("name", ["learning_rate", "backbone_learning_rate", "weight_decay"])
def test_a_resumed_run_learns_at_the_rates_it_is_given(
    tiny_run: TrainConfig, run: Runner, name: str
) -> None:
    run(replace(tiny_run, steps=1), "stopped")
    changed = replace(tiny_run, steps=2, **{name: 0.0123})
    resumed, _ = run(changed, "stopped")
    rest, backbone = resumed.optimizer.param_groups
    assert rest["initial_lr"] == changed.learning_rate
    assert backbone["initial_lr"] == changed.backbone_learning_rate
    assert rest["weight_decay"] == backbone["weight_decay"] == changed.weight_decay


def test_the_log_has_means_of_every_loss_and_the_rate(tiny_run: TrainConfig, run: Runner) -> None:
    state, told = run(replace(tiny_run, mask_start=2, steps=5), "run")
    assert [line.step for line in told.lines] == [2, 4, 5]
    boxes = {"label", "l1", "giou", "tokens", "total"}
    assert told.lines[0].losses.keys() == boxes
    assert told.lines[1].losses.keys() == boxes | {"focal", "dice"}
    assert told.lines[0].learning_rate == pytest.approx(1e-3 * 2 / 3)
    assert told.lines[2].learning_rate == pytest.approx(1e-3)
    assert all(line.images_per_second > 0 and line.gradient_norm > 0 for line in told.lines)
    assert state.step == 5


def test_a_step_moves_every_part_by_gradients_that_are_clipped_together(
    tiny_run: TrainConfig, discs: Dataset, accelerator: Accelerator
) -> None:
    config = replace(tiny_run, mask_start=0, mask_objects=100, clip=1e-3)
    before = make_state(config, CPU, print).learner.state_dict()
    state, result = one_step(config, first_step(config, discs), accelerator)
    names = [name for name, _ in state.learner.named_parameters()]
    after = state.learner.state_dict()
    # Softmax takes no notice of what is added to all keys alike, and a query with no memory of the
    # image reads values that are all zero: these have no gradient, or none in the first step.
    still = {name for name in names if torch.equal(before[name], after[name])}
    attention = ("key.bias", "key.weight", "query.weight", "query.bias")
    assert not {name for name in still if not name.endswith(attention)}
    norms = torch.stack([gradient.norm() for gradient in gradients(state).values()])
    assert norms.norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert result.gradient_norm > 1


def test_parts_give_the_gradients_of_the_whole(
    plain_run: TrainConfig, discs: Dataset, accelerator: Accelerator
) -> None:
    whole, expected = one_step(plain_run, first_step(plain_run, discs), accelerator)
    split = replace(plain_run, accumulate=4)
    parts = first_step(split, discs)
    assert [len(part.pixels) for part in parts] == [1, 1, 1, 1]
    summed, found = one_step(split, parts, accelerator)
    assert found.losses.keys() == expected.losses.keys()
    for name, loss in expected.losses.items():
        assert_close(found.losses[name], loss, rtol=1e-5, atol=1e-5)
    assert_close(found.gradient_norm, expected.gradient_norm, rtol=1e-4, atol=0)
    of_parts = gradients(summed)
    for name, gradient in gradients(whole).items():
        assert_close(of_parts[name], gradient, rtol=1e-3, atol=1e-6)


def test_parts_without_objects_count_for_nothing_but_no_object(
    plain_run: TrainConfig, discs: Dataset, accelerator: Accelerator
) -> None:
    first, second = first_step(replace(plain_run, accumulate=2), discs)
    assert second.targets.index_map is not None
    nothing = replace(
        second.targets,
        classes=torch.zeros(0, dtype=torch.int64),
        boxes=torch.zeros(0, 4),
        counts=(0, 0),
        index_map=torch.zeros_like(second.targets.index_map),
    )
    bare = replace(second, targets=nothing)
    state, result = one_step(plain_run, [first, bare], accelerator)
    alone, _ = one_step(plain_run, [bare, bare], accelerator)
    assert result.finite
    totals = count_step([first, bare], plain_run, accelerator)
    assert (totals.objects, totals.images) == (sum(first.targets.counts), 4)
    assert count_step([bare, bare], plain_run, accelerator).objects == 1
    assert gradients(state).keys() == gradients(alone).keys()


def test_a_step_that_is_not_finite_changes_nothing(
    tiny_run: TrainConfig, discs: Dataset, accelerator: Accelerator
) -> None:
    config = replace(tiny_run, ema=0.9)
    (batch,) = first_step(config, discs)
    state, good = one_step(config, [batch], accelerator)
    assert good.finite
    before = weights(state)
    pixels = batch.pixels.clone()
    pixels[1, 0, 3, 3] = float("nan")
    result = train_step(state.learner, state, [replace(batch, pixels=pixels)], config, accelerator)
    assert not result.finite
    assert_identical(weights(state), before)
    assert state.step == 2
    assert train_step(state.learner, state, [batch], config, accelerator).finite


def test_divergence_stops_the_run_after_the_steps_that_it_may_skip(
    tiny_run: TrainConfig, run: Runner
) -> None:
    diverging = replace(tiny_run, learning_rate=1e30, clip=1e30, warmup=0, bad_steps=2)
    told = Recording()
    with pytest.raises(TrainingError, match="3 steps had a loss or gradient that is not finite"):
        run(diverging, "run", told)
    assert not list((run.place / "run").glob("states/*"))
    assert [*map(len, told.bad)] == [diverging.batch_size] * 3


def test_the_best_model_and_its_figures_are_kept(tiny_run: TrainConfig, run: Runner) -> None:
    state, told = run(replace(tiny_run, validate_every=2, ema=0.5), "run", truth=True)
    assert told.steps == [2, 4, 6]
    metrics = json.loads((run.place / "run" / "best" / "metrics.json").read_text())
    assert metrics["images"] == 4
    scores = [validation.score for validation in told.validations]
    assert state.best == max(scores)
    assert metrics["step"] == told.validations[scores.index(max(scores))].step
    _, best = load_checkpoint(run.place / "run" / "best")
    shapes = {name: tensor.shape for name, tensor in best.state_dict().items()}
    assert shapes == {n: t.shape for n, t in state.kept_model.state_dict().items()}
    assert state.learner.model.training


def test_a_run_ends_when_validations_bring_nothing_better_than_what_was_found(
    tiny_run: TrainConfig, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.0, 0.0, 0.0, 0.5, 0.5, 0.4])  # at first it finds nothing

    def scored(*_: object, step: int, **__: object) -> Validation:
        return Validation(step=step, score=next(scores), measure="thing PQ", metrics={})

    monkeypatch.setattr(loop, "validate", scored)
    config = replace(tiny_run, steps=20, validate_every=1, patience=2)
    state, told = run(config, "run", truth=True)
    assert state.step == 6
    assert [validation.score for validation in told.validations][-3:] == [0.5, 0.5, 0.4]
    assert run(config, "run", truth=True)[0].step == 6


def test_box_ap_tells_models_apart_while_things_are_not_found(
    tiny_run: TrainConfig, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ties = iter([0.0, 0.1, 0.3, 0.2])

    def scored(*_: object, step: int, **__: object) -> Validation:
        return Validation(step=step, score=0.0, tie=next(ties), measure="thing PQ", metrics={})

    monkeypatch.setattr(loop, "validate", scored)
    state, _ = run(replace(tiny_run, steps=4, validate_every=1), "run", truth=True)
    metrics = json.loads((run.place / "run" / "best" / "metrics.json").read_text())
    assert metrics["step"] == 3
    assert (state.best, state.tie) == (0.0, 0.3)


class Broken(GroundTruth):
    """Images to validate with that cannot be read."""

    def share(self, rank: int, ranks: int) -> GroundTruth:
        raise DataError("val/3.png is no image")


def test_a_validation_that_fails_costs_nothing(tiny_run: TrainConfig, run: Runner) -> None:
    config = replace(tiny_run, steps=4, validate_every=2)
    straight, told = run(config, "straight", truth=True)
    broken = Broken(**vars(GroundTruth.open(run.data.folder, "train")))
    for _ in range(2):  # it is not left out when the run goes on
        with pytest.raises(TrainingError, match=r"after step 2: val/3.png is no .* --val none"):
            run(config, "failed", truth=broken)
        assert run.pointer("failed") == "00000002.pt\n"
    shutil.copytree(run.place / "failed", run.place / "without")
    without, silent = run(config, "without")
    assert (without.step, silent.steps) == (4, [])
    again, retold = run(config, "failed", truth=True)
    assert_identical(weights(again), weights(straight))
    assert retold.steps == [2, 4]
    assert [v.metrics for v in retold.validations] == [v.metrics for v in told.validations]
    assert (again.best, again.stale) == (straight.best, straight.stale)
    _, nothing = run(config, "failed", truth=True)
    assert nothing.validations == []  # the last one is done, and known to be


def test_images_that_cannot_be_read_are_left_out_of_validation_with_a_note(
    tiny_run: TrainConfig, run: Runner
) -> None:
    """One whose pixels and one whose id map are broken, which only reading them shows."""
    truth = GroundTruth.open(run.data.folder, "train")
    learned = write_discs(run.place / "learned", 2)
    first, second = (image.path for image in truth.images[:2])
    first.write_bytes(first.read_bytes()[:200])
    second = run.data.folder / "panoptic_train" / second.name
    second.write_bytes(second.read_bytes()[:100])
    config = replace(tiny_run, steps=2, validate_every=1, bad_images=2)
    told = Runner(learned, run.accelerator, run.place)(config, "run", truth=truth)[1]
    assert [v.metrics["images"] for v in told.validations] == [2, 2]
    one, other, nothing = told.notes  # once, though it was validated twice
    assert nothing.startswith("after 1 of 2 steps the best validation still scores 0")
    assert str(first) in one
    assert str(second) in other
    with pytest.raises(TrainingError, match="after step 1: 2 of 4 images cannot be read, and bad"):
        run(replace(config, bad_images=1), "fewer", truth=truth)


class Interrupting(Recording):
    """Sends this process a signal in the midst of a step, or of a validation."""

    def __init__(self, number: signal.Signals, *, step: int = 0, validation: bool = False) -> None:
        super().__init__()
        self._number, self._step, self._validation = number, step, validation

    def batch(self, step: int, batch: Batch) -> None:
        if step == self._step:
            signal.raise_signal(self._number)

    def validating(self, done: int, images: int) -> None:
        if self._validation and done == 2:
            signal.raise_signal(self._number)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_its_step_and_a_validation_at_once(
    tiny_run: TrainConfig, run: Runner, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"{number.name} after step 3") as caught:
        run(tiny_run, "stopped", Interrupting(number, step=3))
    assert caught.value.signal == number
    assert signal.getsignal(number) is before
    assert run.pointer("stopped") == "00000003.pt\n"
    config = replace(tiny_run, validate_every=4)
    with pytest.raises(Interrupted, match="after step 4"):
        run(config, "validating", Interrupting(number, validation=True), truth=True)
    assert run(config, "validating", truth=True)[1].steps == [4, 6]


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_does_not_wait_and_one_press_is_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with StopSignal(aloud=True) as stop:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):  # as a launcher sends them
            signal.raise_signal(number)
        assert stop.number == signal.SIGINT
        monkeypatch.setattr("panodetr.training.processes.ONE_PRESS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err.count("stopping when this step is done") == 1


def test_memory_that_does_not_suffice_is_one_line(
    tiny_run: TrainConfig, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: object) -> StepResult:
        torch.empty(2**60)  # the allocator's own error
        raise AssertionError

    monkeypatch.setattr("panodetr.training.loop.train_step", greedy)
    with pytest.raises(TrainingError, match="higher accumulate, or checkpointing=true") as caught:
        run(tiny_run, "run")
    assert "\n" not in str(caught.value)
    for error in (torch.OutOfMemoryError("CUDA out of memory."), MemoryError()):
        with pytest.raises(TrainingError, match="more memory than there is"), explain_oom(tiny_run):
            raise error
    with pytest.raises(RuntimeError, match="multiplied"), explain_oom(tiny_run):
        raise RuntimeError("shapes cannot be multiplied")


def test_an_image_that_cannot_be_read_is_told_once_and_counted_over_all_starts(
    tiny_run: TrainConfig, run: Runner, discs: Dataset
) -> None:
    config = replace(tiny_run, sampling="epochs", bad_images=1, steps=2)
    first, second = (sample.path for sample in discs.samples[:2])
    whole = first.read_bytes()
    first.write_bytes(whole[:50])
    state, told = run(config, "run")
    (line,) = told.notes
    assert first.name in line
    assert state.skipped == {line}
    state, told = run(replace(config, steps=4), "run")
    assert (state.step, told.notes) == (4, [])
    first.write_bytes(whole)
    second.write_bytes(whole[:50])
    with pytest.raises(DataError, match=r"2 of 4 images cannot be read.*allows more than 1"):
        run(replace(config, steps=6), "run")


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "near"), [("float32", 2e-3), ("bfloat16", 0.1)])
def test_a_run_on_a_gpu_loses_what_one_on_the_cpu_does_and_goes_on_when_resumed(
    plain_run: TrainConfig,
    discs: Dataset,
    tmp_path: Path,
    precision: Literal["float32", "bfloat16"],
    near: float,
) -> None:
    """Without dropout, and with masks of all objects, nothing is drawn on the GPU."""
    config = replace(plain_run, token_weight=0.0, log_every=1)
    _, here = Runner(discs, join_ranks("cpu", config), tmp_path)(config, "cpu")
    config = replace(config, precision=precision)
    run = Runner(discs, join_ranks("cuda", config), tmp_path)
    _, half = run(replace(config, steps=3), "gpu", truth=True)
    _, rest = run(config, "gpu", truth=True)
    there = [*half.lines, *rest.lines]
    assert len(there) == len(here.lines) == config.steps
    for a, b in zip(here.lines, there, strict=True):
        assert b.losses["total"] == pytest.approx(a.losses["total"], rel=near)
