"""`panodetr detect`: images in; a table, pictures with boxes, and JSON out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panodetr.cli.arguments import add_device, add_model_name, add_runtime, probability
from panodetr.cli.images import ROWS, add_images, print_counts, print_left_out, run_on_images
from panodetr.cli.output import print_table

if TYPE_CHECKING:
    import argparse

    from rich.table import Table

    from panodetr.cli.arguments import Commands
    from panodetr.results.result import DetectionResult


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "detect",
        help="find objects as boxes",
        description="Find the objects in images. Writes, for each image, a picture with their "
        "boxes and a JSON with classes, scores, boxes and, with --masks, masks.",
        epilog="An image that cannot be read is reported; the others are still done, and the exit "
        "code is 1.",
    )
    add_images(parser)
    add_model_name(parser)
    parser.add_argument(
        "--threshold",
        type=probability,
        default=0.5,
        metavar="T",
        help="least score of an object, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--masks",
        action="store_true",
        help="find each object's pixels, too; in the JSON as COCO's run lengths",
    )
    add_device(parser)
    add_runtime(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Detect, print and save.

    Raises:
        PanodetrError: the model or the device was refused, or no input is there.
    """
    return run_on_images(
        options,
        lambda model, image: model.detect(image, threshold=options.threshold, masks=options.masks),
        _show,
    )


def _show(result: DetectionResult) -> None:
    """Print what was found in one image."""
    print_counts(detection.label for detection in result.detections)
    if result.detections:
        print_table(_table(result))
    print_left_out(len(result.detections))


def _table(result: DetectionResult) -> Table:
    """Lay out the objects with the best scores."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("label")
    table.add_column("score", justify="right")
    table.add_column("box x0 y0 x1 y1", justify="right")
    for detection in result.detections[:ROWS]:
        table.add_row(
            Text(detection.label),  # a name may hold brackets, which are markup in a plain string
            f"{detection.score:.2f}",
            " ".join(f"{edge:.0f}" for edge in detection.box),
        )
    return table
