"""A run from what a user asks for to the trained model in its folder."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from panodetr.errors import Interrupted, PanodetrError, TrainingError, UsageError
from panodetr.training.folder import RunFolder, held, is_held
from panodetr.training.log import Observer, Recorder
from panodetr.training.loop import begin
from panodetr.training.loop import train as train_on
from panodetr.training.prepare import (
    Prepared,
    Request,
    changed_fields,
    prepare,
    read_request,
    resumed,
    write_request,
)
from panodetr.training.processes import join_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from accelerate import Accelerator

    from panodetr.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run has left.

    Attributes:
        model: the folder of the model after the last step.
        best: that of the model with the best validation; None without validation.
        score: of that validation.
        masks: whether the model makes masks.
        steps: done.
        planned: steps that were to be done: more than `steps` where patience was lost.
    """

    model: Path
    best: Path | None
    score: float | None
    masks: bool
    steps: int
    planned: int


def train(
    request: Request | None,
    out: Path,
    *,
    resume: bool = False,
    changes: Sequence[str] = (),
    val: str | None = None,
    device: str = "auto",
    observer: Observer | None = None,
) -> Outcome | None:
    """Train by a recipe, or go on with a run, until its last step is done.

    Started in several processes (`torchrun`, `accelerate launch`), they share every step.

    Args:
        request: what to do; None with `resume` takes what the run was begun with.
        out: the run's folder; `panodetr.training.folder` says what it holds.
        resume: go on with the run in `out`.
        changes: "field=value", of what a run that is resumed was begun with.
        val: what a run that is resumed is validated with from now on: "none", or, where it was
            that, a split.
        device: "auto", "cpu" or "cuda".
        observer: what hears how it goes on.

    Returns:
        What it has left; None in all processes but the first.

    Raises:
        UsageError: the request cannot be meant, or `out` holds a run already, or something of a
            run's names, and `resume` is not asked for.
        Interrupted: the process was asked to stop; the state is kept.
        TrainingError: there is nothing to resume, another process uses the folder, or
            training diverged.
        DataError: the data contradicts itself.
        PanodetrError: a package is missing, or the system refused to write.
    """
    folder = RunFolder(out)
    before = None
    if resume:
        kept, before = read_request(folder.config)
        request = resumed(kept, request, changes, val)
        before = None if changes else before
    else:
        refuse_taken(folder)
    if request is None:
        raise UsageError("there is nothing to train; name a recipe and the data")
    prepared = prepare(request)
    accelerator = join_ranks(device, prepared.config)
    check_shares(prepared.config, accelerator)
    accelerator.wait_for_everyone()  # nobody looks for a run once the first process has begun it
    with held(out) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process and not resume:
            refuse_taken(folder)  # another process may have been faster
        return _train(prepared, folder, accelerator, before, observer, resume=resume)


def _train(
    prepared: Prepared,
    folder: RunFolder,
    accelerator: Accelerator,
    before: dict[str, Any] | None,
    observer: Observer | None,
    *,
    resume: bool,
) -> Outcome | None:
    """Do the run's steps, in a folder that is this process's own.

    `before` has the configuration's fields that the run should have, or is None if they may differ.
    """
    config = prepared.config
    audience = observer or Observer()
    watching = Observer()
    recorder = None
    if accelerator.is_main_process:
        if resume:
            folder.clear_leftovers()
        watching = recorder = Recorder(
            folder,
            config.spec,
            prepared.data,
            prepared.truth,
            accelerator.device,
            audience,
            wandb=config.wandb,
        )
        for line in prepared.notes:
            recorder.note(line)
        changed = changed_fields(config, before) if before is not None else []
        if changed:
            recorder.note(
                f"{', '.join(changed)} isn't what the run was begun with: the recipe or the data "
                "have changed since"
            )
    state = begin(config, folder, accelerator=accelerator, observer=watching, resume=resume)
    if accelerator.is_main_process:
        write_request(folder.config, prepared)  # not before: what was refused must not stay
    try:
        train_on(
            state,
            config,
            prepared.data,
            prepared.truth,
            folder,
            accelerator=accelerator,
            observer=watching,
        )
        if accelerator.is_main_process:
            folder.save_model(folder.model, config.spec, state.kept_model)
    except Interrupted as stopped:
        if recorder is not None:
            audience.note(str(stopped))
            recorder.close_after(stopped)
        accelerator.end_training()
        raise
    except PanodetrError as error:  # the others are not waited for: they may not know of it
        if recorder is not None:
            recorder.close_after(error)
        raise
    outcome = None
    if recorder is not None:
        recorder.close()
        outcome = Outcome(
            model=folder.model,
            best=None if state.best is None else folder.best,
            score=state.best,
            masks=config.spec.architecture.masks,
            steps=state.step,
            planned=config.steps,
        )
    accelerator.end_training()
    return outcome


def refuse_taken(folder: RunFolder) -> None:
    """See that a new run replaces nothing.

    Raises:
        UsageError: it would.
    """
    taken = folder.taken()
    if taken == folder.config:
        raise UsageError(
            f"{folder.path} holds a run already; go on with it by --resume, or choose another --out"
        )
    if taken is not None:
        raise UsageError(
            f"{taken} is there already, and a run writes its own; choose another --out"
        )


def check_shares(config: TrainConfig, accelerator: Accelerator) -> None:
    """See that a step can be shared out to processes and parts.

    Raises:
        UsageError: it can't.
    """
    parts = accelerator.num_processes * config.accumulate
    if config.batch_size % parts:
        raise UsageError(
            f"batch_size is {config.batch_size}, to be shared by {accelerator.num_processes} "
            f"processes in accumulate={config.accumulate} parts each; expected a multiple of "
            f"{parts}"
        )


def newest_run(runs: Path) -> Path:
    """Find the run that was used last.

    Runs that another process uses are left out.

    Raises:
        TrainingError: there is none.
    """
    every = [path.parent for path in runs.glob("*/config.json")]
    found = [run for run in every if not is_held(run)]
    if every and not found:
        raise TrainingError(
            f"the runs in {runs} are all in use by other processes; "
            "wait for the end of one, or name another run's folder with --out"
        )
    if not found:
        raise TrainingError(
            f"{runs} holds no run to resume; name the run's folder with --out, or start one"
        )
    return max(found, key=lambda run: max(p.stat().st_mtime for p in (run, *run.glob("states"))))
