"""The pages tell what was measured, and nothing else."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

tables: Any = import_module("tables")
PROJECT = Path(__file__).resolve().parents[2]
MARKED = [
    ("README.md", "summary"),
    ("docs/benchmarks/README.md", "quality"), ("docs/benchmarks/README.md", "inference"),
    ("docs/benchmarks/README.md", "roofline"), ("docs/benchmarks/README.md", "training"),
    ("docs/benchmarks/README.md", "gpu"), ("docs/benchmarks/README.md", "eomt"),
]  # fmt: skip


@pytest.mark.parametrize(("page", "name"), MARKED)
def test_a_page_tells_what_was_measured(page: str, name: str) -> None:
    text = (PROJECT / page).read_text("utf-8")
    marked: dict[str, str] = dict(tables.MARKED.findall(text))
    assert name in marked
    expected = tables.make_tables(tables.FOLDER)
    if name not in expected:
        pytest.skip(f"docs/benchmarks/{name}.json is not there: `make bench` writes it")
    assert marked[name] == expected[name], "run: python benchmarks/tables.py --write"


def test_every_marked_table_is_known_and_tested() -> None:
    found = [
        (page.relative_to(PROJECT).as_posix(), name)
        for page in tables.PAGES
        for name, _ in tables.MARKED.findall(page.read_text("utf-8"))
    ]
    assert found == MARKED
    assert {name for _, name in found} == set(tables.TABLES)


def test_a_page_is_filled_and_other_text_stays() -> None:
    page = "a\n<!-- measured: gpu -->\nold\n<!-- end -->\nb\n"
    page += "<!-- measured: quality -->\n<!-- end -->\n"
    once = tables.filled(page, {"quality": "| new |\n"})
    assert once == page.replace("quality -->\n", "quality -->\n| new |\n")
    assert tables.filled(once, {"quality": "| new |\n"}) == once


def test_every_row_and_what_falls_short_is_told(tmp_path: Path) -> None:
    """From the file that is kept, where one row fails."""
    kept = json.loads((tables.FOLDER / "inference.json").read_text("utf-8"))
    row = next(row for row in kept["rows"] if row["name"] == "segment")
    failed = {"holds": False, "error": "segment-torch: no | memory", "ours": None}
    failed |= {"faster": None, "memory": None}
    kept["rows"] = [{**row, **failed} if row is one else one for one in kept["rows"]]
    (tmp_path / "inference.json").write_text(json.dumps(kept))
    (table,) = tables.make_tables(tmp_path).values()
    lines = table.splitlines()
    assert len(lines) == 2 + len(kept["rows"]) + 2
    assert "FAILED: segment-torch: no \\| memory" in lines[2]
    for line, measured in zip(lines[3:], kept["rows"][1:], strict=False):
        assert measured["what"] in line
        floors = any(floor is not None for floor in measured["floors"].values())
        assert ("FALLS SHORT" in line) == (floors and not measured["holds"])
