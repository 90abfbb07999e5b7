from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from harness.process import Answer, Laps, Side, SideFailed
from panodetr.errors import UsageError

if TYPE_CHECKING:
    from harness.weights import RandomModel

MIB = 1 << 20


class Working:
    """Counts its runs, and does what its name says in the third."""

    def __init__(self, third: str = "") -> None:
        self.third = third
        self.runs = 0

    def run(self) -> Laps:
        self.runs += 1
        if self.runs == 3 and self.third == "raise":
            raise UsageError("no third time; expected two")
        if self.runs == 3 and self.third == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"runs": self.runs}

    def answer(self) -> Answer:
        return {"threads": np.array(int(os.environ["OMP_NUM_THREADS"]))}


class Modelled(Working):
    """Holds what brings torch with it, as it arrives in the process."""

    def __init__(self, model: RandomModel) -> None:
        super().__init__()
        self.model = model

    def answer(self) -> Answer:
        import torch

        return {"threads": np.array(torch.get_num_threads())}


class Hungry(Working):
    def run(self) -> Laps:
        memory = np.ones(200 * MIB, np.uint8)
        return {"sum": float(memory[-1])}


class Unforeseen(Working):
    def run(self) -> Laps:
        raise KeyError("a\nb")


def test_sides_work_in_turns_and_each_for_itself() -> None:
    with Side(Working, 1) as a, Side(Working, 3) as b:
        assert [a.run()["runs"], b.run()["runs"], a.run()["runs"]] == [1, 1, 2]
        assert a.answer()["threads"] == 1
        assert b.answer()["threads"] == 3


@pytest.mark.parametrize("own", [None, "2"])
def test_torch_has_the_threads_though_the_job_has_imported_it(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    from harness.weights import RandomModel

    if own is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    with Side(partial(Modelled, RandomModel(folder=Path("none"), threshold=0.5)), 1) as side:
        assert side.answer()["threads"] == 1
    assert os.environ.get("OMP_NUM_THREADS") == own


def test_the_peak_is_that_of_the_work() -> None:
    with Side(Hungry, 1) as side:
        before = side.peak()
        side.run()
        assert 190 * MIB < side.peak() - before < 260 * MIB


def test_work_that_fails_is_one_line_and_the_side_lives_on() -> None:
    with Side(partial(Working, "raise"), 1) as side:
        assert [side.run()["runs"], side.run()["runs"]] == [1, 2]
        with pytest.raises(SideFailed, match=r"^no third time; expected two$"):
            side.run()
        assert side.run() == {"runs": 4}


def test_what_nobody_foresaw_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with Side(Unforeseen, 1) as side, pytest.raises(SideFailed, match=r"^KeyError: 'a\\nb'$"):
        side.run()
    assert "Traceback" in capfd.readouterr().err


def test_a_process_that_was_killed_is_told() -> None:
    with Side(partial(Working, "die"), 1) as side:
        assert [side.run()["runs"], side.run()["runs"]] == [1, 2]
        with pytest.raises(SideFailed, match="SIGKILL, as where memory runs out"):
            side.run()
        with pytest.raises(SideFailed, match="SIGKILL"):
            side.peak()
