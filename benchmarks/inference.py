"""Time, memory and outputs beside transformers: every row, kept in docs/benchmarks.

    python benchmarks/inference.py --data ../shared/data/nuclei
    python benchmarks/inference.py segment detect                  # these anew, the others stay
    python benchmarks/inference.py segment detect --name again     # in a file of their own

The exit code is 1 where a row falls short of its floor or fails; all rows are measured and written.
Rows of a file can be measured one after the other on one day, one machine and its versions; those
of another are refused.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from harness.machine import describe_machine
from harness.report import as_json
from harness.rows import ROWS, Scale, choose_rows
from harness.run import Measured, measure
from panodetr.errors import PanodetrError, UsageError
from panodetr.files import check_writable, write_json
from tables import inference_table

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name", default="inference", help="of the file")
    parser.add_argument("--out", type=Path, default=OUT, help="where it goes")
    options = parser.parse_args()

    file = options.out / f"{options.name}.json"
    check_writable(file)  # refused before the work, not after it
    machine = describe_machine()
    settings = {"repeats": options.repeats, "threads": options.threads}
    done: list[Measured] = []
    rows = choose_rows(options.rows)
    before = None
    if options.rows and file.exists():
        before = json.loads(file.read_text("utf-8"))
        if before["machine"] != machine or before["threads"] != options.threads:
            raise UsageError(
                f"{file} is of another machine, day, version or number of threads; measure all "
                "rows, or give another --name"
            )
    for group in measure(rows, Scale(), data=options.data, progress=_tell, **settings):
        done += group
        write_json(file, together(before, as_json(done, machine, **settings)))
    print(inference_table(as_json(done, machine, **settings)))
    return 0 if all(measured.holds for measured in done) else 1


def together(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """A file with the rows that were measured now, and the others that it had before."""
    if before is None:
        return now
    rows = {row["name"]: row for report in (before, now) for row in report["rows"]}
    order = [row.name for row in ROWS if row.name in rows]
    repeats = min(before["repeats"], now["repeats"])
    return {**now, "repeats": repeats, "rows": [rows[name] for name in order]}


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PanodetrError as error:
        sys.exit(str(error))
