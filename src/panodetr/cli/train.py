"""`panodetr train`: train a model by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from panodetr.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "train",
        help="train a model",
        description="Train a model from scratch on COCO panoptic data, by a recipe.",
        epilog="FOLDER holds panoptic_NAME.json, the photos in NAME/ and the id maps in "
        "panoptic_NAME/, for the NAMEs train and val.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="the run's name, such as nuclei")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="see below")
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
    parser.add_argument("--resume", action="store_true", help="go on where DIR's run stopped")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train.

    Raises:
        PanodetrError: the recipe, the data or a value was refused, or training failed.
    """
    from panodetr.training.run import train

    out = options.out or Path("runs") / options.recipe
    train(options.recipe, options.data, out, options.overrides, options.resume)
    return 0
