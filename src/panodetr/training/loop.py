"""The training loop, from top to bottom."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from panodetr.data.dataset import Dataset
from panodetr.data.loader import Example
from panodetr.errors import DataError, Interrupted, PanodetrError, TrainingError
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.objective.targets import Batch
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.log import Observer, Progress
from panodetr.training.optimizer import learning_rate_factor, set_learning_rate
from panodetr.training.processes import StopSignal, gather
from panodetr.training.state import TrainState, seed_step
from panodetr.training.step import (
    StepResult,
    check_bad_images,
    collate_step,
    explain_oom,
    read_steps,
    train_step,
)
from panodetr.training.validate import validate

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Trainer:
    """A run at work. All processes do the same; the first one writes.

    Attributes:
        state: of `make_state`; it is what changes.
        config: the run.
        data: the images to learn from.
        truth: the images to validate with; None for no validation.
        folder: where states and the best model are kept.
        accelerator: the processes, the device and the precision.
        observer: gets the events.
    """

    state: TrainState
    config: TrainConfig
    data: Dataset
    truth: GroundTruth | None
    folder: RunFolder
    accelerator: Accelerator
    observer: Observer

    def __post_init__(self) -> None:
        self._unvalidated: dict[int, str] = {}  # images that cannot be read, by their id
        self._network = self.accelerator.prepare_model(self.state.learner)
        self._stop = StopSignal(aloud=self.accelerator.is_main_process)
        self._unread = set(self.state.skipped)  # of images that this process could not read
        self._since = (self.state.step, 0.0)  # the step and time of the last line of the log

    def train(self) -> None:
        """Do steps until the last one is done or patience is lost.

        Raises:
            Interrupted: the process was asked to stop; the state is kept.
            TrainingError: training diverged, the memory does not suffice, or the model cannot be
                validated.
            PanodetrError: an image cannot be read, or a file cannot be written.
        """
        config, state, ranks = self.config, self.state, self.accelerator
        rank = ranks.process_index
        steps = read_steps(
            config, self.data, state.step,
            rank=rank, ranks=ranks.num_processes, skipped=self._unread,
        )  # fmt: skip
        self._since = (state.step, time.perf_counter())
        self.observer.begin(state.step, config.steps, config.batch_size)
        with closing(steps), self._stop:
            while True:
                if self._validation_is_due():
                    self._validate()
                if state.step >= config.steps or self._is_out_of_patience():
                    return
                parts = collate_step(config, self.data, self._read(steps))
                self.observer.batch(state.step + 1, parts[0])
                set_learning_rate(state.optimizer, state.step, config)
                seed_step(config.seed, state.step, rank)
                with explain_oom(config):
                    result = train_step(self._network, state, parts, config, ranks)
                self.observer.stepped(state.step)
                self._report(result, parts)
                self._sync_processes()
                save = state.step == config.steps or state.step % config.save_every == 0
                if save or self._validation_is_due():  # one that fails costs nothing
                    self._save()

    def _read(self, steps: Generator[list[Example]]) -> list[Example]:
        try:
            return next(steps)
        except DataError:  # a signal to all processes may have ended those that read images
            self._stop_for(self._stop.number)
            raise

    def _report(self, result: StepResult, parts: Sequence[Batch]) -> None:
        """Write a line of the log where one is due; count a step that is not finite."""
        config, state = self.config, self.state
        seen = state.seen
        if result.finite:
            seen.append({**result.losses, "gradient_norm": result.gradient_norm})
        else:
            self._skip(result, parts)
        if not seen or (state.step < config.steps and state.step % config.log_every):
            return
        now, (step, then) = time.perf_counter(), self._since
        names = dict.fromkeys(name for one in seen for name in one)
        figures = {name: [one[name] for one in seen if name in one] for name in names}
        means = {name: torch.stack(each).mean().item() for name, each in figures.items()}
        self.observer.progress(
            Progress(
                step=state.step,
                gradient_norm=means.pop("gradient_norm"),
                losses=means,
                learning_rate=config.learning_rate * learning_rate_factor(state.step - 1, config),
                images_per_second=(state.step - step) * config.batch_size / (now - then),
            )
        )
        state.seen, self._since = [], (state.step, now)

    def _skip(self, result: StepResult, parts: Sequence[Batch]) -> None:
        """Say of which images a step was that is not finite."""
        state = self.state
        state.bad_steps += 1
        own = [image_id for part in parts for image_id in part.image_ids]
        figures = {name: float(loss) for name, loss in result.losses.items()}
        self.observer.bad_step(
            state.step,
            [image_id for ids in gather(own) for image_id in ids],
            figures | {"gradient_norm": float(result.gradient_norm)},
        )
        if state.bad_steps > self.config.bad_steps:
            raise TrainingError(
                f"{state.bad_steps} steps had a loss or gradient that is not finite, the last one "
                f"step {state.step}, and bad_steps is {self.config.bad_steps}; lower the learning "
                "rate or look at the images that bad_steps/ names"
            )

    def _sync_processes(self) -> None:
        """Stop if a process was asked to; note images that a process could not read."""
        everywhere = gather((self._stop.number, self._unread))
        signals = [number for number, _ in everywhere if number is not None]
        known = self.state.skipped
        new = sorted(set[str]().union(*(unread for _, unread in everywhere)) - known)
        for line in new:
            self.observer.note(line)
        known.update(new)
        self._stop_for(signals[0] if signals else None)
        if new:
            check_bad_images(len(known), self.data, self.config.bad_images, new[-1])

    def _stop_for(self, number: int | None) -> None:
        """Keep the state and end the run, if there is a signal that asks for it."""
        if number is None:
            return
        self._save()
        raise Interrupted(
            f"stopped by {signal.Signals(number).name} after step {self.state.step}, and kept; "
            f"go on with: panodetr train --resume --out {self.folder.path}",
            number,
        )

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            self.folder.save(self.state)

    def _validation_is_due(self) -> bool:
        """Whether the model as it is now is to be validated, and has not been."""
        step, every = self.state.step, self.config.validate_every
        if step == 0:  # random weights have nothing to show
            due = self.config.validate_start and self.config.start is not None
        else:
            due = step == self.config.steps or (every > 0 and step % every == 0)
        return self.truth is not None and due and self.state.validated < step

    def _warn_of_nothing_learned(self) -> None:
        """Say, once a third of the steps are done, that no validation has found anything yet."""
        config, step = self.config, self.state.step
        third, every = config.steps / 3, config.validate_every or config.steps
        if step - every < third <= step < config.steps and not self.state.best:
            self.observer.note(
                f"after {step} of {config.steps} steps the best validation still scores 0; look at "
                f"{self.folder.pictures}: are the boxes of batch_1.png where the objects are, and "
                "of the right class? If so, the objects may be too small or too large for what "
                "the model sees, the classes may differ in val, or the learning rate may be too "
                "low; or it takes more steps"
            )

    def _is_out_of_patience(self) -> bool:
        """Whether validations have brought nothing better for too long, once one found anything."""
        return bool(self.state.best) and 0 < self.config.patience <= self.state.stale

    def _validate(self) -> None:
        """Validate; keep the model if it is the best so far, then the state that knows it."""
        assert self.truth is not None
        state, spec, began = self.state, self.config.spec, time.perf_counter()

        def progress(done: int, images: int) -> None:
            self._stop_for(self._stop.number)
            self.observer.validating(done, images)

        model, bad = state.kept_model, self._unvalidated
        known = len(bad)
        try:
            found = validate(
                model, spec, self.truth, step=state.step,
                accelerator=self.accelerator, progress=progress, left_out=bad,
            )  # fmt: skip
            for line in [*bad.values()][known:]:
                self.observer.note(f"left out of validation: {line}")
            if len(bad) > self.config.bad_images:
                raise DataError(
                    f"{len(bad)} of {len(self.truth.images)} images cannot be read, and bad_images "
                    f"allows no more than {self.config.bad_images}"
                )
        except Interrupted:
            raise
        except PanodetrError as error:
            raise TrainingError(
                f"validation after step {state.step}: {error}; the state is kept: go on with "
                "--resume when it is fixed, or without validation with --resume --val none"
            ) from error
        state.validated = state.step
        state.stale += state.step > 0
        better = state.best is None or (found.score, found.tie) > (state.best, state.tie)
        if state.step > 0 and better:
            state.best, state.tie, state.stale = found.score, found.tie, 0
            if self.accelerator.is_main_process:
                figures = {"step": state.step, **found.metrics}
                self.folder.save_model(self.folder.best, spec, model, figures)
        self.observer.validated(found, model)
        self._warn_of_nothing_learned()
        self._save()
        step, then = self._since
        self._since = (step, then + time.perf_counter() - began)  # the speed is that of learning
