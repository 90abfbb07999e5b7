"""`panodetr bench`: this package beside transformers, time, memory and outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from panodetr.bench.run import Measured
    from panodetr.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "bench",
        help="measure time and memory beside transformers",
        description="Do the same work with this package and with transformers, each in a process "
        "of its own, run in turns; compare the outputs, and print ratios of the median times.",
        epilog="The exit code is 1 where a row fails or falls short of its floor. All rows take "
        "12 GiB of memory and several minutes: transformers does.",
    )
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="such as segment or detect (default: all)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        metavar="N",
        help="rounds of the slowest rows; quick ones have more (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="threads of every process (default: %(default)s)",
    )
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="what to segment (default: a bundled image)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="the data set nuclei, for the rows int8-on-data and bf16-on-data, left out without it",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write all figures as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, and print the table.

    Raises:
        UsageError: there is no such row, or a number is not positive.
        PanodetrError: the file cannot be written.
    """
    from panodetr.bench.rows import Scale, choose_rows

    for name in ("repeats", "threads"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is {getattr(options, name)}; expected 1 or more")
    rows = choose_rows(options.rows)
    if options.data is None and not options.rows:
        rows = tuple(row for row in rows if row.compared != "on data")
    scale = Scale() if options.image is None else Scale(image=options.image)
    done: list[Measured] = []
    from panodetr.bench.machine import describe_machine
    from panodetr.bench.report import as_json, rich_table
    from panodetr.bench.run import measure
    from panodetr.cli.output import print_table
    from panodetr.files import check_writable, write_json

    if options.out is not None:  # refused before the work, not after it
        check_writable(options.out)
    machine = describe_machine()
    for group in measure(
        rows,
        scale,
        repeats=options.repeats,
        threads=options.threads,
        data=options.data,
        progress=_tell,
    ):
        done += group
        if options.out is not None:  # after every group: whatever comes next, these are measured
            report = as_json(done, machine, repeats=options.repeats, threads=options.threads)
            write_json(options.out, report)
    print_table(rich_table(done))
    return 0 if all(measured.holds for measured in done) else 1


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
