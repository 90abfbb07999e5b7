"""`panodetr train`: train a model by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.cli.arguments import add_device, add_format
from panodetr.errors import Interrupted, UsageError

if TYPE_CHECKING:
    import argparse

    from panodetr.cli.arguments import Commands
    from panodetr.training.prepare import Request
    from panodetr.training.run import Outcome

RUNS = Path("runs") / "train"

SHOWN_ERRORS = 10

EPILOG = """\
FOLDER is a data set of COCO's (panoptic or instances), of YOLO's, or images with id maps; its
splits are found by their names. `panodetr recipes` lists what RECIPE may be, and every value that
--set changes.

The run's folder holds config.json, log.jsonl, results.png, TensorBoard's events, pictures/ of what
is learned from and of predictions beside the truth, best/ and model/ (checkpoints for --model), and
states/ to resume from.

Ctrl-C and SIGTERM end a run when its step is done, and keep its state (exit code 130, 143). A run
that was stopped in whatever way goes on where it was:
  panodetr train --resume                       the one at work last in runs/train
  panodetr train --resume --out DIR             the one in DIR
and with --set steps=N for more steps than it was begun with, or with --val none for no more
validation.

Several GPUs or machines share a run under torchrun or accelerate launch, batch_size being that of
all of them together:
  torchrun --nproc-per-node 4 -m panodetr train RECIPE --data FOLDER
"""


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    import argparse

    parser = commands.add_parser(
        "train",
        help="train or fine-tune a model",
        usage="panodetr train RECIPE --data FOLDER [--set KEY=VALUE …] [--dry-run]\n"
        "       panodetr train --resume [--out DIR]",
        description="Train a model by a recipe, from scratch or from a checkpoint.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="the run's kind, see below")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="a data set, see below")
    add_format(parser)
    parser.add_argument(
        "--split", metavar="NAME", help="what to learn from (default: train, or the only one)"
    )
    parser.add_argument(
        "--val",
        metavar="NAME",
        help="what to validate with; none for no validation (default: val, where it is there)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"the run's folder (default: {RUNS}/NAME); one that holds a run is never overwritten",
    )
    parser.add_argument(
        "--name", metavar="NAME", help="of the run, in the default folder (default: the recipe's)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="KEY=VALUE",
        help="change one value of the recipe; may be given again",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run, see below")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, check the data, do two steps, estimate time and memory; writes "
        "nothing",
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, telling on stderr how it goes on, and on stdout where the model is.

    Raises:
        UsageError: the options contradict each other.
        PanodetrError: the recipe, the data or a value was refused, or training failed.
    """
    if options.out is not None and options.name is not None:
        raise UsageError("--name is for the default folder; give --out or --name")
    request = _request(options)
    if options.dry_run:
        if request is None or options.resume:
            raise UsageError("--dry-run rehearses a new run; name its RECIPE and --data")
        return _rehearse(request, options.device)
    from panodetr.cli.train_progress import TrainProgress
    from panodetr.training.run import newest_run, train

    name = options.name or options.recipe
    out = options.out or (RUNS / name if name else newest_run(RUNS))
    with TrainProgress() as progress:
        try:
            outcome = train(
                request,
                out,
                resume=options.resume,
                changes=options.changes if options.resume else (),
                val=options.val if options.resume else None,
                device=options.device,
                observer=progress,
            )
        except Interrupted as stopped:  # which the observer was told of
            return 128 + stopped.signal  # as shells have it
    if outcome is not None:
        print(_closing(outcome))
    return 0


def _request(options: argparse.Namespace) -> Request | None:
    """What to train; None where a run is resumed that knows it.

    Raises:
        UsageError: the recipe or the data is missing.
    """
    from panodetr.training.prepare import Request

    if options.recipe is None and options.data is None and options.resume:
        for name in ("split", "format"):
            given = getattr(options, name)
            if given is not None:
                raise UsageError(
                    f"--{name} {given} is for a new run; one that is resumed keeps its own"
                )
        return None
    if options.recipe is None or options.data is None:
        raise UsageError("expected RECIPE and --data FOLDER, or --resume without both")
    return Request(
        recipe=options.recipe,
        data=options.data,
        format=options.format,
        split=options.split,
        val=None if options.resume else options.val,
        changes=() if options.resume else tuple(options.changes),
    )


def _closing(outcome: Outcome) -> str:
    """Say where the model is and how to try it."""
    command = "segment" if outcome.masks else "detect"
    text = f"the model after step {outcome.steps} is in {outcome.model}"
    if outcome.steps < outcome.planned:
        text += f" (of {outcome.planned}: validations brought nothing better)"
    best = outcome.model
    if outcome.best is not None:
        best = outcome.best
        text += f"; the best one (validation {outcome.score:.3f}) in {best}"
    return f"{text}; try it: panodetr {command} IMAGE --model {best}"


def _rehearse(request: Request, device: str) -> int:
    """Print what a rehearsal found."""
    from panodetr.cli.train_progress import duration
    from panodetr.training.dry_run import dry_run

    found = dry_run(request, device=device)
    config = found.config
    print(f"images          {found.images} to learn from, {found.val_images} to validate with")
    print(f"learned weights {found.parameters:,}")
    print(f"steps           {config.steps} of {config.batch_size} images")
    print(f"a step          {found.seconds:.2f} s, so about {duration(found.total_seconds)} in all")
    if found.peak_bytes is not None:
        print(f"memory          {found.peak_bytes / 2**30:.1f} GiB at the peak of two steps")
    for note in found.notes:
        print(f"note: {note}")
    for warning in found.warnings:
        print(f"warning: {warning}")
    if not found.checked:
        print(f"note: not every file was read; panodetr data check {request.data} does that")
    for error in found.errors[:SHOWN_ERRORS]:
        print(f"error in the data: {error}")
    if len(found.errors) > SHOWN_ERRORS:
        print(f"{len(found.errors)} errors in all; panodetr data check {request.data} lists them")
    print("nothing was written")
    return 1 if found.errors else 0
