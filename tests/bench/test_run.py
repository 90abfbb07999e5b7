"""Rows with real processes, and with models so small that they say nothing of speed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.process import python

from harness.process import Answer, Job, Laps
from harness.rows import ROWS, Floors, Row, Scale, SideName, choose_rows
from harness.run import Measured, Workshop, measure, measure_group
from panodetr.errors import UsageError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


class Sleeper:
    """Takes a given time, and dies in a given round."""

    def __init__(self, seconds: float, dies_in: int = 0) -> None:
        self.seconds = seconds
        self.dies_in = dies_in
        self.runs = 0

    def run(self) -> Laps:
        self.runs += 1
        if self.runs == self.dies_in:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"whole": self.seconds}

    def answer(self) -> Answer:
        return {"pixels": np.zeros(3)}


class Staged(Workshop):
    """Gives sides that are written down here."""

    def __init__(self, folder: Path, scale: Scale, jobs: dict[SideName, Job]) -> None:
        super().__init__(folder, scale, 1)
        self.jobs = jobs

    def job(self, side: SideName) -> Job:
        if side not in self.jobs:
            raise UsageError(f"no {side} here")
        return self.jobs[side]


PAIR = (
    Row(name="a", what="a", side="detect-torch", against="detect-theirs", floors=Floors(faster=2)),
    Row(name="b", what="b", side="detect-openvino", against="detect-theirs"),
)


def by_name(found: list[Measured]) -> dict[str, Measured]:
    return {measured.row.name: measured for measured in found}


def test_sides_run_in_turns_and_one_that_dies_costs_its_own_row_alone(
    tmp_path: Path, tiny_scale: Scale
) -> None:
    jobs: dict[SideName, Job] = {
        "detect-torch": partial(Sleeper, 0.5),
        "detect-openvino": partial(Sleeper, 2.0),
        "detect-theirs": partial(Sleeper, 1.5),
    }
    told: list[str] = []
    rows = by_name(measure_group(list(PAIR), Staged(tmp_path, tiny_scale, jobs), 2, told.append))
    rounds = [line for line in told if "round" in line]
    order = ["detect-torch", "detect-openvino", "detect-theirs"]
    assert rounds == [f"{name}: round {number} of 2" for number in (1, 2) for name in order]
    assert rows["a"].faster == pytest.approx(3)
    assert rows["b"].faster == pytest.approx(0.75)
    assert rows["a"].holds
    assert rows["a"].ours is not None
    assert rows["a"].ours.seconds == (0.5, 0.5)
    jobs["detect-openvino"] = partial(Sleeper, 2.0, dies_in=2)
    rows = by_name(measure_group(list(PAIR), Staged(tmp_path, tiny_scale, jobs), 3, print))
    assert rows["a"].holds
    assert not rows["b"].holds
    assert rows["b"].error == (
        "detect-openvino: the process was ended by SIGKILL, as where memory runs out"
    )
    del jobs["detect-theirs"]
    (row,) = measure_group([PAIR[0]], Staged(tmp_path, tiny_scale, jobs), 1, print)
    assert row.ours is not None
    assert row.theirs is None
    assert row.error == "detect-theirs: no detect-theirs here"
    assert not row.holds


def test_rows_are_chosen_by_name_in_the_order_of_the_table() -> None:
    assert choose_rows([]) == ROWS
    assert [row.name for row in choose_rows(["help", "segment"])] == ["segment", "help"]
    with pytest.raises(UsageError, match="there is no row 'segmnt'; expected some of segment, "):
        choose_rows(["segmnt"])


def test_whoever_starts_sides_is_small() -> None:
    code = (
        "import sys, harness.run, harness.report\n"
        "print({'torch', 'transformers', 'scipy'} & set(sys.modules))"
    )
    done = python("-c", code, cwd=BENCHMARKS)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parity
@pytest.mark.slow
def test_every_row_of_pytorch_is_the_same_as_transformers(tiny_scale: Scale) -> None:
    names = ["segment", "all-masks", "detect", "prepare", "finish", "finish-noise"]
    names += ["int8-on-data", "import", "help"]
    groups = measure(choose_rows(names), tiny_scale, repeats=2, threads=1)
    rows = by_name([row for group in groups for row in group])
    assert set(rows) == set(names)
    for name in ("segment", "all-masks", "detect", "prepare"):
        row = rows[name]
        assert row.error is None
        assert row.agreement is not None
        assert row.agreement.same, row.agreement.text
        assert row.memory is not None
    for name in ("finish", "finish-noise"):
        assert rows[name].faster is not None
        assert rows[name].memory is None
    assert rows["import"].theirs is None
    assert rows["int8-on-data"].error == (
        "int8-on-data: this row needs a data set with a split val; give --data"
    )


@pytest.mark.parity
@pytest.mark.slow
def test_every_row_of_openvino_does_the_same_work(tiny_scale: Scale) -> None:
    pytest.importorskip("openvino")
    names = ["segment-openvino", "segment-int8", "detect-openvino"]
    groups = measure(choose_rows(names), tiny_scale, repeats=1, threads=1)
    rows = by_name([row for group in groups for row in group])
    found = [rows[name].agreement for name in names]
    for name, agreement in zip(names, found, strict=True):
        assert rows[name].error is None
        assert rows[name].faster is not None
        assert agreement is not None
        assert agreement.same, agreement.text
        assert agreement.figures["kept"] == 3
    assert found[1] is not None
    assert found[1].figures["mask_iou"] > 0.5
    assert "of them the same; their 3: classes" in found[1].text


@pytest.mark.slow
def test_rows_on_data_hold_where_they_agree(tiny_scale: Scale, few_nuclei: Path) -> None:
    chosen = choose_rows(["bf16-on-data"])
    ((row,),) = measure(chosen, tiny_scale, repeats=1, threads=1, data=few_nuclei)
    assert row.error is None
    assert row.agreement is not None
    figures = row.agreement.figures
    assert figures["queries"] > 5
    assert 0.9 < figures["mask_iou"] < 1  # it rounds, and little
    assert figures["pq"] == pytest.approx(figures["reference_pq"], abs=0.1)
    assert row.holds
    floor = replace(row.row, floors=Floors(agreement=0.9999))
    assert not replace(row, row=floor).holds
