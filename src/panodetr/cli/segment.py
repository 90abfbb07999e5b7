"""`panodetr segment`: images in; a table, overlays, id maps and JSON out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panodetr.cli.arguments import add_model
from panodetr.cli.images import ROWS, add_images, print_counts, print_left_out, run_on_images
from panodetr.cli.output import print_table
from panodetr.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from rich.table import Table

    from panodetr.cli.arguments import Commands
    from panodetr.results.result import PanopticResult


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "segment",
        help="segment images",
        description="Find every object and region in images. Writes, for each image, an overlay "
        "picture, a COCO panoptic id map (PNG) and a JSON with its segments.",
        epilog="An image that cannot be read is reported; the others are still done, and the exit "
        "code is 1.",
    )
    add_images(parser)
    add_model(parser)
    parser.add_argument(
        "--task",
        choices=("panoptic", "instances", "semantic"),
        default="panoptic",
        help="every pixel to one object or region; objects alone; or a class for every pixel "
        "(default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Segment, print and save.

    Raises:
        UsageError: a semantic segmentation was given a threshold.
        PanodetrError: the model or the device was refused, or no input is there.
    """
    if options.task == "semantic" and options.threshold is not None:
        raise UsageError("--task semantic takes no --threshold: every pixel gets a class")
    return run_on_images(
        options,
        lambda model, image: model.segment(image, threshold=options.threshold, task=options.task),
        _show,
    )


def _show(result: PanopticResult) -> None:
    """Print what was found in one image."""
    print_counts(segment.label for segment in result.segments)
    if result.segments:
        print_table(_table(result))
    print_left_out(len(result.segments))


def _table(result: PanopticResult) -> Table:
    """Lay out the segments with the best scores."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("segment", justify="right")
    table.add_column("label")
    table.add_column("kind")
    table.add_column("score", justify="right")
    table.add_column("box x0 y0 x1 y1", justify="right")
    table.add_column("area", justify="right")
    for segment in sorted(result.segments, key=lambda s: -s.score)[:ROWS]:
        table.add_row(
            str(segment.id),
            Text(segment.label),  # a name may hold brackets, which are markup in a plain string
            "thing" if segment.is_thing else "stuff",
            f"{segment.score:.2f}",
            " ".join(f"{edge:.0f}" for edge in segment.box),
            f"{segment.area} px",
        )
    return table
