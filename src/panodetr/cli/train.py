"""`panodetr train`: train a model by a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.cli.arguments import add_device

if TYPE_CHECKING:
    import argparse

    from panodetr.cli.arguments import Commands
    from panodetr.training.loop import Progress


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "train",
        help="train a model",
        description="Train a model from scratch on COCO panoptic data, by a recipe.",
        epilog="FOLDER holds panoptic_NAME.json, the photos in NAME/ and the id maps in "
        "panoptic_NAME/. An interrupted run goes on where it was with --resume.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="the run's name, such as nuclei")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="see below")
    parser.add_argument(
        "--split", default="train", metavar="NAME", help="what to learn from (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where the model, the log and the state go (default: runs/RECIPE)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change one value of the recipe; may be given again",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, with a line of progress on stderr every so many steps.

    Raises:
        PanodetrError: the recipe, the data or a value was refused, or training failed.
    """
    from panodetr.training.run import train

    model = train(
        options.recipe,
        options.data,
        options.out or Path("runs") / options.recipe,
        split=options.split,
        overrides=options.overrides,
        resume=options.resume,
        device=options.device,
        report=_print_progress,
    )
    print(f"the model is in {model}; try it: panodetr segment PHOTO --model {model}")
    return 0


def _print_progress(progress: Progress, steps: int) -> None:
    """Print one line: how far, the losses, the learning rate, the speed."""
    losses = " ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
    print(
        f"step {progress.step}/{steps}  {losses}  rate {progress.learning_rate:.1e}  "
        f"{progress.crops_per_second:.1f} crops/s",
        file=sys.stderr,
        flush=True,
    )
