"""A run from what a user asks for to the trained model in its folder."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from panodetr.data.formats import one_line
from panodetr.errors import Interrupted, UsageError
from panodetr.files import check_writable, write_text
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
from panodetr.training.validate import list_images


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run has left.

    Attributes:
        data: the data set's folder.
        model: the folder of the model after the last step.
        best: that of the model with the best validation; None without validation.
        score: of that validation.
        masks: whether the model makes masks.
        steps: done.
        planned: steps that were to be done: more than `steps` where patience was lost.
    """

    data: Path
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
        observer: is told how the run proceeds.

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
    folder, audience, before = RunFolder(out), observer or Observer(), None
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
            recorder = Recorder(folder, config, data, truth, audience, **done)
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
    assert prepared.request.data is not None
    return Outcome(
        data=prepared.request.data,
        model=folder.model,
        best=None if state.best is None else folder.best,
        score=state.best,
        masks=config.spec.architecture.masks,
        steps=state.step,
        planned=config.steps,
    )
