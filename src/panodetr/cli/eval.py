"""`panodetr eval`: a model's panoptic quality on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.cli.arguments import add_model

if TYPE_CHECKING:
    import argparse

    from rich.table import Table

    from panodetr.cli.arguments import Commands
    from panodetr.evaluation.run import Metrics


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "eval",
        help="measure a model on a data set",
        description="Segment a data set's photos and count the matches with its truth, by the "
        "rules of COCO's panopticapi.",
        epilog="FOLDER holds panoptic_NAME.json, the photos in NAME/ and the id maps in "
        "panoptic_NAME/.",
    )
    add_model(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="see below")
    parser.add_argument("--split", default="val", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="where metrics.json, panoptic.json and the predicted id maps go",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate, print the table and write the files.

    Raises:
        PanodetrError: the data or the model was refused, or the files cannot be written.
    """
    import panodetr
    from panodetr.cli.output import ProgressBar, print_table
    from panodetr.data.panoptic import PanopticData
    from panodetr.evaluation.run import evaluate

    data = PanopticData.open(options.data, options.split)
    model = panodetr.load(options.model, device=options.device)
    with ProgressBar(len(data.samples)) as progress:

        def count(done: int, total: int) -> None:
            progress.begin(f"segmented {done} of {total}")
            progress.end()

        report = evaluate(model, data, threshold=options.threshold, progress=count)
    report.write(options.out)
    print_table(_table(report.metrics))
    print(f"{report.metrics['images']} photos; everything is in {options.out / 'metrics.json'}")
    return 0


def _table(metrics: Metrics) -> Table:
    """Lay out the figures over all classes, the things and the stuff."""
    from rich.table import Table

    table = Table("classes", box=None, pad_edge=False)
    for heading in ("PQ", "SQ", "RQ", "F1"):
        table.add_column(heading, justify="right")
    rows = {
        "all": (metrics["pq"], metrics["sq"], metrics["rq"], metrics["f1"]),
        "things": (
            metrics["pq_things"],
            metrics["sq_things"],
            metrics["rq_things"],
            metrics["f1_things"],
        ),
        "stuff": (
            metrics["pq_stuff"],
            metrics["sq_stuff"],
            metrics["rq_stuff"],
            metrics["f1_stuff"],
        ),
    }
    for name, values in rows.items():
        table.add_row(name, *(f"{value:.3f}" for value in values))
    return table
