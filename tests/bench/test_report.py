from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from harness.compare import Agreement, compare, network_answer
from harness.machine import describe_machine
from harness.report import as_json, describe_floors, duration
from harness.rows import Floors, Row
from harness.run import Measured, Spent

GIB = 1 << 30


def measured(*seconds: float, gib: float = 1.5, same: bool = True, **floors: float) -> Measured:
    """A row of ours in some seconds beside theirs in 26."""
    row = Row(
        name="segment", what="segment", side="segment-torch", against="segment-theirs",
        floors=Floors(**floors),
    )  # fmt: skip
    return Measured(
        row=row,
        ours=Spent(seconds=seconds, peak=int(gib * GIB)),
        theirs=Spent(seconds=(26.0, 26.0, 26.0), peak=12 * GIB),
        agreement=Agreement(same=same, text="15 kept"),
    )


def agreeing(classes: float, box_iou: float, mask_iou: float) -> Measured:
    figures = {"classes": classes, "box_iou": box_iou, "mask_iou": mask_iou}
    agreement = Agreement(same=None, text="as it is", figures=figures)
    return replace(measured(1.0, agreement=0.9), agreement=agreement)


@pytest.mark.parametrize(
    ("row", "holds", "floor"),
    [
        (measured(2.0, 9.0, 0.1, faster=8, memory=1 / 7), True, "≥ 8x, ≤ 1/7 of the memory"),
        (measured(3.5, faster=8), False, "≥ 8x"),
        (measured(2.0, gib=2, memory=1 / 7), False, "≤ 1/7 of the memory"),
        (measured(2.0, same=False), False, ""),
        (measured(0.52, share=0.05), True, "≤ 5 %"),
        (measured(1.56, share=0.05), False, "≤ 5 %"),
        (measured(0.2, seconds=0.3), True, "≤ 0.3 s"),
        (measured(0.4, seconds=0.3), False, "≤ 0.3 s"),
        (agreeing(1.0, 0.95, 0.9), True, "agreement ≥ 0.9"),
        (agreeing(1.0, 0.95, 0.89), False, "agreement ≥ 0.9"),
        (agreeing(0.5, 0.95, 0.95), False, "agreement ≥ 0.9"),
        (replace(measured(1.0, agreement=0.9), agreement=None), False, "agreement ≥ 0.9"),
    ],
)
def test_a_row_holds_where_every_floor_is_reached(row: Measured, holds: bool, floor: str) -> None:
    assert row.holds is holds
    assert describe_floors(row.row.floors) == floor


def test_rows_as_json_and_in_words() -> None:
    answer = network_answer(
        np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32), np.arange(2)
    )
    other = answer | {"logits": np.full((2, 3), np.nan, np.float32)}
    whole = measured(2.0, 9.0, 0.1)
    failed = Measured(row=whole.row, error="segment-theirs: no | memory")
    one = replace(whole.row, side="finish", against="finish", share=True)  # one process
    rows = [whole, failed, replace(whole, agreement=compare(other, answer, 2))]
    rows += [replace(whole, row=one), replace(whole, theirs=None)]
    assert not failed.holds
    report = as_json(rows, describe_machine(), repeats=3, threads=2)
    first, second, third, *_ = json.loads(json.dumps(report, allow_nan=False))["rows"]
    assert first["ours"] == {"median": 2.0, "seconds": [2.0, 9.0, 0.1], "peak_bytes": 3 * GIB // 2}
    assert (first["faster"], first["holds"]) == (13.0, True)
    assert (second["ours"], second["error"]) == (None, "segment-theirs: no | memory")
    assert third["agreement"]["figures"] == {"boxes": 0, "logits": None, "kept": 2}
    assert third["agreement"]["text"].startswith("DIFFERS: 2 kept, boxes 0e+00, logits inf")
    _, _, *lines = import_module("tables").inference_table(report).splitlines()
    assert "| 2.00 s, not 26.00 s | 13.0x |" in lines[0]
    assert lines[0].endswith("| 1.5 GiB, not 12.0 GiB | 15 kept |")
    assert "FAILED: segment-theirs: no \\| memory |" in lines[1]
    assert "| 2.00 s of 26.00 s | 7.7 % |" in lines[3]
    assert "| 2.00 s |  |" in lines[4]
    for seconds, text in ((0.0241, "24.1 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s")):
        assert duration(seconds) == text
