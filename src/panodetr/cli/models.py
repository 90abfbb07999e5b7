"""`panodetr models`: what comes with the package."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from panodetr.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "models", help="list the bundled models", description="List the bundled models."
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table.

    Raises:
        CheckpointError: a bundled model is broken.
    """
    del options
    from rich.table import Table

    from panodetr.checkpoints.load import load_checkpoint
    from panodetr.checkpoints.published import bundled
    from panodetr.cli.output import print_table

    table = Table("model", "classes", box=None, pad_edge=False)
    for heading in ("parameters", "size", "PQ things"):
        table.add_column(heading, justify="right")
    for name, folder in bundled().items():
        spec, model = load_checkpoint(folder)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        size = sum(file.stat().st_size for file in folder.iterdir())
        table.add_row(
            name,
            ", ".join(category.name for category in spec.categories),
            f"{parameters / 1e6:.2f} M",
            f"{size / 1e6:.1f} MB",
            _figure(folder),
        )
    print_table(table)
    return 0


def _figure(folder: Path) -> str:
    """Read what the model reached on the data that its metrics name, where they lie beside it."""
    from panodetr.checkpoints.spec import METRICS_FILE

    file = folder / METRICS_FILE
    if not file.is_file():
        return "not measured"
    return f"{json.loads(file.read_text('utf-8'))['pq_things']:.3f}"
