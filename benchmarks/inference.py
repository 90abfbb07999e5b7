"""Every row of `panodetr bench`, kept in docs/benchmarks and printed as the README has it.

    python benchmarks/inference.py --data ../shared/data/nuclei
    python benchmarks/inference.py segment detect --repeats 5 --name again

The exit code is 1 where a row falls short of its floor or fails; all rows are measured and written.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from panodetr.bench.machine import Machine, describe_machine
from panodetr.bench.report import as_json, describe_measurement, markdown_table
from panodetr.bench.rows import Scale, choose_rows
from panodetr.bench.run import Measured, measure
from panodetr.files import check_writable, write_json, write_text

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name", default="inference", help="of both files")
    parser.add_argument("--out", type=Path, default=OUT, help="where they go")
    options = parser.parse_args()

    files = [options.out / f"{options.name}{ending}" for ending in (".json", ".md")]
    for file in files:  # refused before the work, not after it
        check_writable(file)
    machine = describe_machine()
    settings = {"repeats": options.repeats, "threads": options.threads}
    done: list[Measured] = []
    rows = choose_rows(options.rows)
    for group in measure(rows, Scale(), data=options.data, progress=_tell, **settings):
        done += group
        write_json(files[0], as_json(done, machine, **settings))
        write_text(files[1], _page(done, machine, settings))
    print(_page(done, machine, settings))
    return 0 if all(measured.holds for measured in done) else 1


def _page(rows: list[Measured], machine: Machine, settings: dict[str, int]) -> str:
    return f"{markdown_table(rows)}\n{describe_measurement(machine, **settings)}"


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
