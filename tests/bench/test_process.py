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
        if self.runs == 3 and self.third == "stumble":
            raise KeyError("a\nb")
        if self.runs == 3 and self.third == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.runs == 3 and self.third == "eat":
            return {"runs": float(np.ones(200 * MIB, np.uint8)[2] + 2)}
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


def test_sides_work_in_turns_and_each_for_itself() -> None:
    with Side(partial(Working, "eat"), 1) as a, Side(Working, 3) as b:
        assert [a.run()["runs"], b.run()["runs"], a.run()["runs"]] == [1, 1, 2]
        assert a.answer()["threads"] == 1
        assert b.answer()["threads"] == 3
        before = a.peak()
        assert a.run()["runs"] == 3
        assert 190 * MIB < a.peak() - before < 260 * MIB


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


@pytest.mark.parametrize(
    ("third", "message", "traceback"),
    [
        ("raise", r"^no third time; expected two$", False),
        ("stumble", r"^KeyError: 'a\\nb'$", True),
        ("die", "SIGKILL, as where memory runs out", False),
    ],
)
def test_work_that_fails_is_one_line_and_the_side_lives_on_unless_it_was_killed(
    third: str, message: str, traceback: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    with Side(partial(Working, third), 1) as side:
        assert [side.run()["runs"], side.run()["runs"]] == [1, 2]
        with pytest.raises(SideFailed, match=message):
            side.run()
        if third == "die":
            with pytest.raises(SideFailed, match="SIGKILL"):
                side.peak()
        else:
            assert side.run() == {"runs": 4}
    assert ("Traceback" in capfd.readouterr().err) is traceback
