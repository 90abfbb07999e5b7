"""The tables of the README, made of what was measured: the JSON files in docs/benchmarks.

    python benchmarks/tables.py            # print them
    python benchmarks/tables.py --write    # and put them into the pages

A page has a table between two comments, `<!-- measured: NAME -->` and `<!-- end -->`. A table
whose files are not there is left as it is. `tests/bench/test_tables.py` holds the pages to the
files.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.report import describe_floors, duration, markdown, size
from harness.rows import Floors
from panodetr.files import write_text

PROJECT = Path(__file__).parents[1]
FOLDER = PROJECT / "docs" / "benchmarks"
PAGES = (PROJECT / "README.md", FOLDER / "README.md")
MARKED = re.compile(r"<!-- measured: (\w+) -->\n(.*?)<!-- end -->\n", re.DOTALL)

Report = dict[str, Any]
"""A JSON file of docs/benchmarks."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the JSON files are")
    parser.add_argument("--write", action="store_true", help="put the tables into the pages")
    options = parser.parse_args()
    tables = make_tables(options.folder)
    for name, table in tables.items():
        print(f"{name}\n\n{table}")
    for page in PAGES if options.write else ():
        write_text(page, filled(page.read_text("utf-8"), tables))


def make_tables(folder: Path) -> dict[str, str]:
    """Every table whose files are there, by its name, in Markdown."""
    found = {name: make(folder) for name, make in TABLES.items()}
    return {name: table for name, table in found.items() if table}


def filled(page: str, tables: dict[str, str]) -> str:
    """A page with these tables between its comments; the others stay."""

    def fill(match: re.Match[str]) -> str:
        name, old = match.groups()
        return f"<!-- measured: {name} -->\n{tables.get(name, old)}<!-- end -->\n"

    return MARKED.sub(fill, page)


def quality(folder: Path) -> str:
    """The bundled model, class by class, and what needs no training."""
    report, without = _read(folder, "quality"), _read(folder, "watershed")
    lines: list[tuple[str, ...]] = [("", "PQ", "SQ", "RQ = F1 at IoU 0.5")]
    if report:
        for name, found in report["figures"]["per_class"].items():
            kind = "things" if name in report["things"] else "stuff"
            lines.append((f"{name} ({kind})", *_thirds(found)))
        for name, found in report.get("kinds", {}).items():
            lines.append((f"nuclei of {found['images']} images: {name}", *_thirds(found)))
    if without:
        lines.append(("Otsu's threshold and a watershed (things)", *_thirds(without["figures"])))
    reports = [found for found in (report, without) if found]
    images = " and ".join(dict.fromkeys(str(found["images"]) for found in reports))
    return _table(lines, reports, f"{images} images") if reports else ""


def summary(folder: Path) -> str:
    """What the README shows: the rows with a floor that says how many times faster we are."""
    report, step = _read(folder, "inference"), _read(folder, "training")
    if report is None or step is None:
        return ""
    lines: list[tuple[str, ...]] = [("work", "panodetr", "transformers", "", "peak memory")]
    for row in report["rows"]:
        if row["floors"]["faster"] is not None:
            ours, theirs = (duration(row[side]["median"]) for side in ("ours", "theirs"))
            lines.append((row["what"], ours, theirs, _gained(row), _memory(row)))
    sides = {row["side"]: row for row in step["rows"]}
    ours, theirs = sides["ours"], sides["transformers"]
    lines.append((
        f"training step, ResNet-50, {step['size']}², 12 objects",
        duration(ours["seconds"]), duration(theirs["seconds"]), f"{theirs['ratios']['time']:.1f}x",
        f"{size(ours['peak_bytes'])}, not {size(theirs['peak_bytes'])}",
    ))  # fmt: skip
    return _table(lines, [report], "")


def inference(folder: Path) -> str:
    """Every row of `inference.py`."""
    report = _read(folder, "inference")
    return "" if report is None else inference_table(report)


def inference_table(report: Report) -> str:
    """The rows of a report of `inference.py`."""
    lines: list[tuple[str, ...]] = [
        ("work", "time", "", "floor", "", "peak memory", "outputs compared")
    ]
    for row in report["rows"]:
        lines.append((
            row["what"], _time(row), _gained(row), describe_floors(Floors(**row["floors"])),
            _verdict(row), _memory(row), row["agreement"]["text"] if row["agreement"] else "",
        ))  # fmt: skip
    rounds = f"medians of {report['repeats']} rounds or more, {report['threads']} threads"
    return _table(lines, [report], rounds)


def roofline(folder: Path) -> str:
    """How near the machine's rate each part of a segmentation runs."""
    report = _read(folder, "roofline")
    if report is None:
        return ""
    lines: list[tuple[str, ...]] = [("part", "GFLOP", "GB", "time", "share of the machine's peak")]
    for row in report["rows"]:
        lines.append((
            row["part"], f"{row['gflop']:.1f}", f"{row['gb']:.2f}", duration(row["seconds"]),
            f"{row['share']:.0%}",
        ))  # fmt: skip
    rates = f"{report['gflops']:.0f} GFLOP/s, {report['gb_a_second']:.1f} GB/s"
    return _table(lines, [report], f"{report['threads']} threads: {rates}")


def training(folder: Path) -> str:
    """A training step, ours and the others'."""
    report = _read(folder, "training")
    return "" if report is None else training_table(report)


def training_table(report: Report) -> str:
    """The sides of a report of `training.py`."""
    lines: list[tuple[str, ...]] = [
        ("step", "time", "peak memory", "times our time", "times our memory", "floor", "")
    ]
    for row in report["rows"]:
        ratios, floors = row["ratios"], row["floors"]
        shown = [f"{ratios[name]:.1f}x" if ratios else "" for name in ("time", "memory")]
        floor = ", ".join(f"{name} ≥ {value:g}x" for name, value in floors.items())
        verdict = "" if not floors else "holds" if row["holds"] else "FALLS SHORT"
        spent = duration(row["seconds"]), size(row["peak_bytes"])
        lines.append((row["side"], *spent, *shown, floor, verdict))
    rounds = f"medians of {report['rounds']} rounds, {report['threads']} threads"
    return _table(lines, [report], f"image {report['size']} by {report['size']}, {rounds}")


def eomt(folder: Path) -> str:
    """EoMT and DETR on one image, beside transformers where there is such a side."""
    report = _read(folder, "which-model")
    if report is None:
        return ""
    sides = ("torch", "transformers", "shape kept", "openvino", "int8")
    lines: list[tuple[str, ...]] = [
        ("", "PQ, published", "PyTorch", "transformers", "shape kept", "OpenVINO", "int8",
         "peak memory", "floors", "")
    ]  # fmt: skip
    for row in report["rows"]:
        times = [duration(row[side]["seconds"]) if side in row else "" for side in sides]
        if "faster" in row:
            times[1] += f" ({row['faster']:.1f}x)"
        peak = size(row["torch"]["peak"])
        if "transformers" in row:
            peak += f", not {size(row['transformers']['peak'])}"
        floors = [
            f"{name} {'≥' if 'faster' in name else '≤'} {floor:g} ({row[name]:.2f})"
            for name, floor in row["floors"].items()
        ]
        verdict = "" if not floors else "holds" if row["holds"] else "FALLS SHORT"
        lines.append((row["what"], f"{row['pq']}", *times, peak, ", ".join(floors), verdict))
    rounds = min(len(row["torch"]["all"]) for row in report["rows"])
    return _table(
        lines, [report], f"medians of {rounds} rounds or more, {report['threads']} threads"
    )


def gpu(folder: Path) -> str:
    """Images a second on a GPU."""
    report = _read(folder, "gpu")
    if report is None:
        return ""
    columns = tuple(dict.fromkeys(column for line in report["lines"] for column in line))
    # Of what failed, what it was, and not what PyTorch has to say about it.
    own = [[line.get(name, "").split(". ")[0] for name in columns] for line in report["lines"]]
    lines: list[tuple[str, ...]] = [columns, *map(tuple, own)]
    on_data = report["bf16_on_data"]
    near = on_data["text"] if isinstance(on_data, dict) else on_data
    more = report["gpu"] if near is None else f"{report['gpu']}; nuclei in bf16, {near}"
    return _table(lines, [report], more)


TABLES: dict[str, Callable[[Path], str]] = {
    "summary": summary,
    "quality": quality,
    "inference": inference,
    "roofline": roofline,
    "training": training,
    "gpu": gpu,
    "eomt": eomt,
}


def _read(folder: Path, name: str) -> Report | None:
    path = folder / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def _table(lines: list[tuple[str, ...]], reports: list[Report], more: str) -> str:
    """A table, and in a line what it was measured on."""
    places = dict.fromkeys(_place(report) for report in reports)
    return f"{markdown(lines)}\n{'; '.join([*places, more] if more else places)}.\n"


def _place(report: Report) -> str:
    machine = report["machine"]
    named = ("panodetr", "torch", "transformers", "openvino", "nncf")
    versions = [
        f"{name} {machine['versions'][name]}" for name in named if name in machine["versions"]
    ]
    return (
        f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, Python "
        f"{machine['python']}, {', '.join(versions)}"
    )


def _time(row: Report) -> str:
    if row["ours"] is None:
        return ""
    own = duration(row["ours"]["median"])
    if row["theirs"] is None:
        return own
    return f"{own}{' of' if _is_share(row) else ', not'} {duration(row['theirs']['median'])}"


def _is_share(row: Report) -> bool:
    """Whether a time is told as a part of another; older files don't say it, but for the floor."""
    return row.get("share", row["floors"]["share"] is not None)


def _gained(row: Report) -> str:
    if row["faster"] is None:
        return ""
    return f"{100 / row['faster']:.1f} %" if _is_share(row) else f"{row['faster']:.1f}x"


def _memory(row: Report) -> str:
    if row["memory"] is None:
        return ""
    return f"{size(row['ours']['peak_bytes'])}, not {size(row['theirs']['peak_bytes'])}"


def _verdict(row: Report) -> str:
    if row["error"] is not None:
        return f"FAILED: {row['error']}"
    if all(floor is None for floor in row["floors"].values()):
        return "" if row["holds"] else "DIFFERS"
    return "holds" if row["holds"] else "FALLS SHORT"


def _thirds(found: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{found[name]:.3f}" for name in ("pq", "sq", "rq"))


if __name__ == "__main__":
    main()
