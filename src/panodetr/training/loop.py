"""The training loop, from top to bottom."""

from __future__ import annotations

import signal
import time
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING

import torch

from panodetr.data.loader import check_bad_images
from panodetr.errors import DataError, Interrupted, PanodetrError, TrainingError
from panodetr.model.detr import Detr
from panodetr.objective.auxiliary import AuxiliaryHeads, place_queries_on_grid
from panodetr.training.log import BadStep, Progress
from panodetr.training.optimizer import (
    freeze,
    learning_rate_factor,
    make_optimizer,
    set_learning_rate,
    set_modes,
)
from panodetr.training.processes import StopSignal, gather
from panodetr.training.start import make_model
from panodetr.training.state import (
    Learner,
    TrainState,
    average_weights,
    recompute_activations,
    seed_step,
)
from panodetr.training.step import explain_oom, read_steps, train_step
from panodetr.training.validate import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from accelerate import Accelerator

    from panodetr.data.dataset import Dataset
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.objective.targets import Batch
    from panodetr.training.config import TrainConfig
    from panodetr.training.folder import RunFolder
    from panodetr.training.log import Observer
    from panodetr.training.step import StepResult


def begin(
    config: TrainConfig,
    folder: RunFolder,
    *,
    accelerator: Accelerator,
    observer: Observer,
    resume: bool,
) -> TrainState:
    """The state that a run starts from, or the last one that it left behind.

    Args:
        config: the run.
        folder: where states are kept.
        accelerator: for the device.
        observer: gets a note of what was not taken over.
        resume: whether to go on from the folder's last state, if there is one.

    Raises:
        TrainingError: no state can be read, or they are of another run.
        PanodetrError: the weights to start with cannot be read, or don't fit.
    """
    resume = resume and folder.has_states()
    state = make_state(config, accelerator.device, observer.note, with_weights=not resume)
    if resume:
        folder.load(state, observer.note)
    return state


def train(
    state: TrainState,
    config: TrainConfig,
    data: Dataset,
    truth: GroundTruth | None,
    folder: RunFolder,
    *,
    accelerator: Accelerator,
    observer: Observer,
) -> None:
    """Train on from a state, until the last step is done or patience is lost.

    All processes call this alike; the first one writes.

    Args:
        state: of `begin`; it is what changes.
        config: the run.
        data: the images to learn from.
        truth: the images to validate with; None for no validation.
        folder: where states and the best model are kept.
        accelerator: the processes, the device and the precision.
        observer: whoever wants to know.

    Raises:
        Interrupted: the process was asked to stop; the state is kept.
        TrainingError: training diverged, the memory does not suffice, or the model cannot be
            validated.
        PanodetrError: an image cannot be read, or a file cannot be written.
    """
    network = accelerator.prepare_model(state.learner)
    main = accelerator.is_main_process
    unread: list[str] = []  # of images that this process has skipped, and the others don't know of
    steps = read_steps(
        config,
        data,
        state.step,
        unread.append,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
    )
    seen: list[StepResult] = []
    since = time.perf_counter()
    observer.begin(state.step, state.validated, config.steps, config.batch_size)

    with closing(steps), StopSignal(aloud=main) as stop:
        while True:
            if truth is not None and validation_due(state, config):
                began = time.perf_counter()
                validate_state(state, truth, config, folder, accelerator, observer, stop)
                since += time.perf_counter() - began  # the speed is that of learning
            if state.step >= config.steps or out_of_patience(state, config):
                break
            try:
                parts = next(steps)
            except DataError:  # the signal went to those who read images, too
                count_skipped(state, unread, observer)
                stop_run(stop.number, state, folder, accelerator)
                raise
            observer.batch(state.step + 1, parts[0])
            factor = learning_rate_factor(state.step, config)
            set_learning_rate(state.optimizer, factor)
            seed_step(config.seed, state.step, accelerator.process_index)
            with explain_oom(config):
                result = train_step(network, state, parts, config, accelerator)
            observer.stepped(state.step)

            if result.finite:
                seen.append(result)
            else:
                skip_step(state, result, parts, config, accelerator, observer)
            last = state.step == config.steps
            if seen and (last or state.step % config.log_every == 0):
                observer.progress(_summary(seen, state.step, factor, config, since))
                seen, since = [], time.perf_counter()

            signals, skipped = zip(*gather(accelerator, (stop.number, [*unread])), strict=True)
            unread.clear()
            unreadable = count_skipped(state, chain.from_iterable(skipped), observer)
            asked = next((number for number in signals if number is not None), None)
            due = truth is not None and validation_due(state, config)
            stop_run(asked, state, folder, accelerator)
            if unreadable:
                check_bad_images(len(state.skipped), data, config.bad_images, unreadable[-1])
            if main and (last or due or state.step % config.save_every == 0):
                folder.save(state)


def count_skipped(state: TrainState, lines: Iterable[str], observer: Observer) -> list[str]:
    """Remember images that could not be read; note and return what is said of new ones."""
    new = [line for line in dict.fromkeys(lines) if line not in state.skipped]
    state.skipped.update(new)
    for line in new:
        observer.note(line)
    return new


def stop_run(
    number: int | None, state: TrainState, folder: RunFolder, accelerator: Accelerator
) -> None:
    """Keep the state and end the run, if there is a signal that asks for it.

    Raises:
        Interrupted: there is.
    """
    if number is None:
        return
    if accelerator.is_main_process:
        folder.save(state)
    raise Interrupted(
        f"stopped by {signal.Signals(number).name} after step {state.step}, and kept; "
        f"go on with: panodetr train --resume --out {folder.path}",
        number,
    )


def make_state(
    config: TrainConfig,
    device: torch.device,
    note: Callable[[str], None],
    *,
    with_weights: bool = True,
) -> TrainState:
    """A model at its start, ready for the first step; what the seed decides is decided here.

    Args:
        config: the run.
        device: where to compute.
        note: called with a line for whatever was not taken over from a checkpoint.
        with_weights: whether to read the weights that the run starts with; a state brings its own.

    Raises:
        PanodetrError: they cannot be read, or don't fit.
    """
    torch.manual_seed(config.seed)
    model, notes = make_model(config) if with_weights else (Detr(config.spec.architecture), [])
    for line in notes:
        note(line)
    auxiliary = AuxiliaryHeads(model.config, config)
    if config.grid_queries and config.start is None:
        place_queries_on_grid(model, auxiliary)
    freeze(model, config)
    # torch's annotations leave memory_format out.
    model = model.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    auxiliary = auxiliary.to(device).train()
    set_modes(model, config)
    average = average_weights(model, config.ema) if config.ema else None
    if config.checkpointing:
        recompute_activations(model)
    return TrainState(
        learner=Learner(model, auxiliary, config),
        optimizer=make_optimizer(model, auxiliary, config),
        average=average,
    )


def skip_step(
    state: TrainState,
    result: StepResult,
    parts: Sequence[Batch],
    config: TrainConfig,
    accelerator: Accelerator,
    observer: Observer,
) -> None:
    """Count a step that is not finite, and say of which images it was.

    Raises:
        TrainingError: there were more of them than the run allows.
    """
    state.bad_steps += 1
    mine = [image_id for part in parts for image_id in part.image_ids]
    ids = [image_id for ids in gather(accelerator, mine) for image_id in ids]
    losses = {name: float(loss) for name, loss in result.losses.items()}
    observer.bad_step(
        BadStep(
            step=state.step,
            image_ids=ids,
            losses=losses,
            gradient_norm=float(result.gradient_norm),
        )
    )
    if state.bad_steps > config.bad_steps:
        raise TrainingError(
            f"{state.bad_steps} steps had a loss or gradient that is not finite, the last one step "
            f"{state.step}, and bad_steps is {config.bad_steps}; lower the learning rate or look "
            "at the images that bad_steps/ names"
        )


def validate_state(
    state: TrainState,
    truth: GroundTruth,
    config: TrainConfig,
    folder: RunFolder,
    accelerator: Accelerator,
    observer: Observer,
    stop: StopSignal,
) -> None:
    """Validate, and keep the model if it is the best so far; then keep the state that knows it.

    Raises:
        Interrupted: the process was asked to stop.
        TrainingError: the model cannot be validated.
        PanodetrError: a file cannot be written.
    """

    def progress(done: int, images: int) -> None:
        stop_run(stop.number, state, folder, accelerator)
        observer.validating(done, images)

    model = state.kept_model
    try:
        validation = validate(
            model,
            config.spec,
            truth,
            step=state.step,
            accelerator=accelerator,
            progress=progress,
        )
    except Interrupted:
        raise
    except PanodetrError as error:
        raise TrainingError(
            f"validation after step {state.step}: {error}; the state is kept: go on with --resume "
            "when it is fixed, or without validation with --resume --val none"
        ) from error
    state.stale += 1
    state.validated = state.step
    if state.best is None or validation.score > state.best:
        state.best, state.stale = validation.score, 0
        if accelerator.is_main_process:
            folder.save_model(
                folder.best,
                config.spec,
                model,
                {"step": state.step, **validation.metrics},
            )
    observer.validated(validation, model)
    if accelerator.is_main_process:
        folder.save(state)


def validation_due(state: TrainState, config: TrainConfig) -> bool:
    """Whether the model as it is now is to be validated, and has not been."""
    last = state.step == config.steps
    due = config.validate_every > 0 and state.step % config.validate_every == 0
    return (last or due) and state.validated < state.step


def out_of_patience(state: TrainState, config: TrainConfig) -> bool:
    """Whether validations have brought nothing better for too long.

    A model that has never found anything is still at its beginning, not at its end.
    """
    return bool(config.patience) and bool(state.best) and state.stale >= config.patience


def _summary(
    seen: Sequence[StepResult], step: int, factor: float, config: TrainConfig, since: float
) -> Progress:
    """A line of the log: the mean of each loss over the steps that had it."""
    names = {name: None for result in seen for name in result.losses}
    losses = {
        name: torch.stack([r.losses[name] for r in seen if name in r.losses]).mean().item()
        for name in names
    }
    return Progress(
        step=step,
        losses=losses,
        learning_rate=config.learning_rate * factor,
        gradient_norm=torch.stack([result.gradient_norm for result in seen]).mean().item(),
        images_per_second=len(seen) * config.batch_size / (time.perf_counter() - since),
    )
