"""A run from what a user asks for to the trained model in its folder, or a rehearsal of it."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from panodetr.data.check import check_split
from panodetr.data.formats import one_line
from panodetr.errors import Interrupted, TrainingError, UsageError
from panodetr.files import check_writable, write_text
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder, held, hold_next
from panodetr.training.log import Observer
from panodetr.training.loop import Trainer
from panodetr.training.prepare import (
    Request,
    changed_fields,
    prepare,
    read_request,
    resumed,
    write_request,
)
from panodetr.training.processes import explain_lost_rank, join_ranks
from panodetr.training.recorder import Recorder
from panodetr.training.start import make_state
from panodetr.training.step import collate_step, explain_oom, read_steps, train_step
from panodetr.training.validate import list_images

CHECKED_IMAGES = 5_000
"""Of more images not every file is read: that would take longer than a rehearsal should."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run has left.

    Attributes:
        request: what was asked for.
        image: one to try the model on: of those it was validated with, where there are any.
        model: the folder of the model after the last step.
        best: that of the model with the best validation; None without validation.
        score: of that validation.
        masks: whether the model makes masks.
        steps: done.
        planned: steps that were to be done: more than `steps` where patience was lost.
    """

    request: Request
    image: Path
    model: Path
    best: Path | None
    score: float | None
    masks: bool
    steps: int
    planned: int


def train(
    request: Request,
    out: Path,
    *,
    numbered: bool = False,
    resume: bool = False,
    device: str = "auto",
    observer: Observer | None = None,
) -> Outcome | None:
    """Train by a recipe, or resume a run, until its last step is done.

    Processes that are started together (`torchrun`, `accelerate launch`) share every step.

    Args:
        request: what to do. With `resume`, changes to what the run was begun with; the rest may be
            left out, and must be the same where it is not.
        out: the run's folder; `panodetr.training.folder` says what it holds.
        numbered: whether a new run takes `out`-2, `out`-3 … where `out` is taken.
        resume: go on with the run in `out`.
        device: as for `panodetr.load`.
        observer: gets the run's events.

    Returns:
        What it has left; None in all processes but the first.

    Raises:
        UsageError: the request cannot be meant, or `out` holds a run already, or something of a
            run's names, and neither `resume` nor `numbered` is asked for.
        Interrupted: the process was asked to stop; the state is kept.
        TrainingError: there is nothing to resume, another process uses the folder, or
            training diverged.
        PanodetrError: the data contradicts itself, a package is missing, or the system refused to
            write.
    """
    folder, before = RunFolder(out), None
    asked = request.changes
    if resume:
        kept, before = read_request(folder.config)
        request = resumed(kept, request)
    elif not numbered:
        folder.check_free()
    check_writable(out, folder=True)
    prepared = prepare(request)
    config, data, truth, notes = prepared.config, prepared.data, prepared.truth, [*prepared.notes]
    if before is not None and not asked and (changed := changed_fields(config, before)):
        notes.append(
            f"{', '.join(changed)} isn't what the run was begun with: the recipe or the data have "
            "changed since"
        )
    accelerator = join_ranks(device, config)
    accelerator.wait_for_everyone()  # nobody looks for a run once the first process has begun it
    main = accelerator.is_main_process
    with ExitStack() as stack:
        stack.enter_context(explain_lost_rank(accelerator))
        if main and numbered and not resume:
            folder = RunFolder(hold_next(out, stack))
            if folder.path != out:
                notes.append(f"{out} holds another run, so this one is in {folder.path}")
        elif main:
            stack.enter_context(held(out))
            if resume:
                folder.clear_leftovers()
            else:
                folder.check_free()  # another process may have been faster
        states = folder if resume else None
        state = make_state(config, accelerator.device, notes.append, states=states)
        ranks = accelerator.num_processes
        if state.ranks not in (None, ranks):
            raise UsageError(
                f"{out} was trained in {state.ranks} processes, and now there are {ranks}, whose "
                f"steps would differ; start {state.ranks}"
            )
        state.ranks = ranks
        recorder = Observer()
        if main:
            write_request(folder.config, prepared)  # not before: what was refused must not stay
            if prepared.held_out is not None:
                lines = (f"{one_line(path)}\n" for path in list_images(prepared.held_out))
                write_text(folder.held_out, "".join(lines))
            done = {"step": state.step, "validated": state.validated}
            recorder = Recorder(folder, config, data, truth, observer or Observer(), **done)
            for line in notes:
                recorder.note(line)
        trainer = Trainer(state, config, data, truth, folder, accelerator, recorder)
        try:
            with recorder:
                trainer.train()
                if main:
                    folder.save_model(folder.model, config.spec, state.kept_model)
        except Interrupted:  # after any other error the other processes may still be at work
            accelerator.end_training()
            raise
        accelerator.end_training()
    if not main:
        return None
    return Outcome(
        request=replace(prepared.request, start=None),
        image=(data.samples if truth is None else truth.images)[0].path,
        model=folder.model,
        best=None if state.best is None else folder.best,
        score=state.best,
        masks=config.spec.architecture.masks,
        steps=state.step,
        planned=config.steps,
    )


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a rehearsal found.

    Attributes:
        config: the run's.
        images: to learn from.
        val_images: to validate with.
        parameters: that learn.
        seconds: of one step, with masks where the run learns them.
        total_seconds: of all steps, validations left out.
        peak_bytes: of the GPU, or else of this process; None where the system doesn't say.
        checked: whether every file of the data was read.
        errors: what is wrong with it, a line each.
        notes: what should be known of the data, what was not taken over from a checkpoint, and
            what the run does without.
        warnings: what will probably disappoint.
    """

    config: TrainConfig
    images: int
    val_images: int
    parameters: int
    seconds: float
    total_seconds: float
    peak_bytes: int | None
    checked: bool
    errors: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def dry_run(request: Request, *, device: str = "auto") -> DryRun:
    """Build everything a run needs, do two of its steps, and throw them away.

    Raises:
        TrainingError: a loss or gradient is not finite, or the memory does not suffice.
        PanodetrError: whatever would stop the run as it begins.
    """
    prepared = prepare(request)
    config, data = prepared.config, prepared.data
    val_images = 0 if prepared.truth is None else len(prepared.truth.images)
    checked = len(data.samples) + val_images <= CHECKED_IMAGES
    errors: list[str] = []
    notes = [*prepared.notes]
    for split in dict.fromkeys((data.split, prepared.val)) if checked else ():
        if split is not None:
            found = check_split(prepared.source, split, data.format, lambda done, images: None)
            faults = found.faults
            few = not faults.fatal and len(faults.bad) <= config.bad_images  # the run skips them
            said = notes if few else errors
            said += [finding.message for finding in found.findings if finding.is_error]
    # Masks from the first step on: that is what most steps cost, and the most memory they take.
    short = replace(config, steps=max(2, config.steps), mask_start=0)
    accelerator = join_ranks(device, short)
    state = make_state(short, accelerator.device, notes.append)
    network = accelerator.prepare_model(state.learner)
    seconds, skipped = 0.0, set[str]()
    with closing(read_steps(short, data, skipped=skipped)) as steps:
        for _ in range(2):  # the second one is timed: the first one warms up
            parts = collate_step(short, data, next(steps))
            began = time.perf_counter()
            with explain_oom(short):
                result = train_step(network, state, parts, short, accelerator)
            seconds = time.perf_counter() - began
            if not result.finite:
                raise TrainingError(
                    "a loss or gradient of the first steps is not finite; check the data"
                )
    learned = (p for group in state.optimizer.param_groups for p in group["params"])
    return DryRun(
        config=config,
        images=len(data.samples),
        val_images=val_images,
        parameters=sum(parameter.numel() for parameter in learned),
        seconds=seconds,
        total_seconds=seconds * config.steps,
        peak_bytes=_peak_bytes(accelerator.device),
        checked=checked,
        errors=tuple(errors),
        notes=tuple(dict.fromkeys((*notes, *sorted(skipped)))),
        warnings=tuple(warn_of_few_steps(config)),
    )


def warn_of_few_steps(config: TrainConfig) -> list[str]:
    """Say so where far fewer steps are planned than DETR needs: about a tenth of the paper's."""
    if config.learned == "masks":
        least = 5_000
        why = "the mask head took 46000 of 64 images in the paper (25 epochs of COCO)"
    elif config.start is not None:
        least, why = 1_000, "a fine-tuned DETR needs some thousands"
    elif config.token_weight:
        least = 5_000
        why = "from random weights the bundled model took 8000, with token supervision"
    else:
        least = 50_000
        why = (
            "from a backbone or random weights DETR took 554000 of 64 images in the paper "
            "(300 epochs of COCO); start from a trained checkpoint (recipe finetune) instead, or "
            f"plan {least} at the least"
        )
    if config.steps >= least:
        return []
    return [f"{config.steps} steps of {config.batch_size} images are very few: {why}"]


def _peak_bytes(device: torch.device) -> int | None:
    """The most memory that was taken so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
