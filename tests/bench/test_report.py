from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.compare import Agreement, compare, network_answer
from harness.machine import describe_machine
from harness.report import (
    as_json,
    cells,
    duration,
    markdown_table,
    rich_table,
)
from harness.rows import Floors, Row
from harness.run import Measured, Spent
from panodetr.files import write_json

ROW = Row(
    name="segment",
    what="segment",
    side="segment-torch",
    against="segment-theirs",
    floors=Floors(faster=8, memory=1 / 7),
)
GIB = 1 << 30
SAME = Agreement(same=True, text="15 kept")


def measured(seconds: float = 2.0, gib: float = 1.5, agreement: Agreement = SAME) -> Measured:
    return Measured(
        row=ROW,
        ours=Spent(seconds=(seconds, 9.0, 0.1), peak=int(gib * GIB)),
        theirs=Spent(seconds=(26.0, 26.0, 26.0), peak=12 * GIB),
        agreement=agreement,
    )


def test_a_difference_without_bounds_is_written_as_none(tmp_path: Path) -> None:
    answer = network_answer(
        np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32), np.arange(2)
    )
    other = answer | {"logits": np.full((2, 3), np.nan, np.float32)}
    row = measured(agreement=compare(other, answer, 2))
    write_json(tmp_path / "a.json", as_json([row], describe_machine(), repeats=3, threads=2))
    (written,) = json.loads((tmp_path / "a.json").read_text("utf-8"))["rows"]
    assert written["agreement"]["figures"] == {"boxes": 0, "logits": None, "kept": 2}
    assert written["agreement"]["text"].startswith("DIFFERS: 2 kept, boxes 0e+00, logits inf")


def test_a_row_that_holds() -> None:
    row = measured()
    assert row.holds
    assert cells(row) == (
        "segment", "≥ 8x, ≤ 1/7 of the memory", "13.0x (2.00 s, 26.00 s)",
        "1/8.0 (1.5 GiB, 12.0 GiB)", "15 kept", "holds",
    )  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        measured(seconds=3.5),
        measured(gib=2),
        measured(agreement=Agreement(same=False, text="DIFFERS: 14 and 15 kept")),
    ],
    ids=["slow", "large", "different"],
)
def test_a_row_that_falls_short(row: Measured) -> None:
    assert not row.holds
    assert cells(row)[-1] == "FALLS SHORT"


@pytest.mark.parametrize(
    ("figures", "holds"),
    [
        ({"classes": 1.0, "box_iou": 0.95, "mask_iou": 0.9}, True),
        ({"classes": 1.0, "box_iou": 0.95, "mask_iou": 0.89}, False),
        ({"classes": 0.5, "box_iou": 0.95, "mask_iou": 0.95}, False),
        ({}, False),
    ],
)
def test_on_data_agreement_has_a_floor(figures: dict[str, float], holds: bool) -> None:
    row = Row(
        name="int8-on-data", what="int8", side="int8-on-data", against="int8-on-data",
        floors=Floors(agreement=0.9), compared="on data",
    )  # fmt: skip
    spent = Spent(seconds=(1.0,), peak=1)
    agreement = Agreement(same=None, text="as it is", figures=figures)
    found = Measured(row=row, ours=spent, theirs=spent, agreement=agreement)
    assert found.holds is holds
    assert cells(found)[1] == "agreement ≥ 0.9"


@pytest.mark.parametrize(("seconds", "holds"), [(0.02, True), (0.06, False)])
def test_a_share_of_the_time(seconds: float, holds: bool) -> None:
    row = Row(
        name="finish", what="f", side="finish", against="finish", floors=Floors(share=0.05),
        compared=None, share=True,
    )  # fmt: skip
    found = Measured(
        row=row, ours=Spent(seconds=(seconds,), peak=1), theirs=Spent(seconds=(1.0,), peak=1)
    )
    assert found.holds is holds
    assert found.memory is None  # one process
    assert cells(found)[1:4] == (
        "≤ 5 %", f"{100 * seconds:.1f} % ({1000 * seconds:.0f} ms of 1.00 s)", "",
    )  # fmt: skip


@pytest.mark.parametrize(("seconds", "holds"), [(0.2, True), (0.4, False)])
def test_a_limit_of_seconds(seconds: float, holds: bool) -> None:
    row = Row(name="import", what="i", side="start", floors=Floors(seconds=0.3), compared=None)
    found = Measured(row=row, ours=Spent(seconds=(seconds,), peak=1))
    assert found.holds is holds
    assert cells(found)[1:3] == ("≤ 0.3 s", f"{1000 * seconds:.0f} ms")


def test_a_row_that_failed_says_why_in_every_form() -> None:
    failed = Measured(row=ROW, error="segment-theirs: no | memory")
    assert not failed.holds
    rows = [measured(), failed]
    lines = markdown_table(rows).splitlines()
    assert lines[1] == "| --- | --- | --- | --- | --- | --- |"
    assert lines[3].endswith("| FAILED: segment-theirs: no \\| memory |")
    assert rich_table(rows).row_count == 2
    report = as_json(rows, describe_machine(), repeats=3, threads=2)
    first, second = json.loads(json.dumps(report, allow_nan=False))["rows"]
    assert first["ours"] == {"median": 2.0, "seconds": [2.0, 9.0, 0.1], "peak_bytes": 3 * GIB // 2}
    assert (first["faster"], first["holds"]) == (13.0, True)
    assert (second["ours"], second["error"]) == (None, "segment-theirs: no | memory")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0241, "24.1 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s"), (2.345, "2.35 s")],
)
def test_times_are_told_in_seconds_or_milliseconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text
