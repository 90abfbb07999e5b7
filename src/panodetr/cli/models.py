"""`panodetr models`: what can be given as a model's name."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from panodetr.cli.arguments import Commands

_FIGURES = {"pq": "PQ", "pq_things": "things", "ap": "box AP", "segm_ap": "mask AP"}


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "models",
        help="list the models that can be named",
        description="List the models that come with the package, those in the cache of the Hugging "
        "Face hub, and the published ones. Any DETR on the hub can be given by its id, too.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table.

    Raises:
        CheckpointError: a bundled model is broken.
    """
    from panodetr.checkpoints.hub import list_models

    models = list_models()
    if options.json:
        print(json.dumps([asdict(model) for model in models], indent=2))
        return 0
    from rich.table import Table

    from panodetr.cli.output import print_table

    table = Table("model", "where", "task", box=None, pad_edge=False)
    table.add_column("size", justify="right")
    for heading in ("licence", "measured on", "figures in percent"):
        table.add_column(heading)
    for model in models:
        table.add_row(
            model.name,
            model.where,
            model.task,
            f"{model.size / 1e6:.1f} MB",
            model.licence or "unknown",
            model.data or "unknown",
            _figures(model.figures),
        )
    print_table(table)
    return 0


def _figures(figures: Mapping[str, float]) -> str:
    """List the figures that say most."""
    return ", ".join(
        f"{name} {figures[key]:.1f}" for key, name in _FIGURES.items() if key in figures
    )
