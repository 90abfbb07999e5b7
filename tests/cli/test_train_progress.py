from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from panodetr.cli import train
from panodetr.cli.output import duration
from panodetr.cli.train import TrainProgress
from panodetr.model.config import detr_small
from panodetr.model.detr import Detr
from panodetr.training.log import Progress
from panodetr.training.validate import Validation

VALIDATION = Validation(
    step=20,
    score=0.25,
    measure="thing PQ",
    metrics={"pq": 0.5, "pq_things": 0.25, "pq_stuff": 0.75, "boxes": {"ap": 0.125, "ap50": 0.5}},
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Goes on when it is told."""
    clock = SimpleNamespace(now=1000.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(train, "time", clock)
    return clock


def watch(progress: TrainProgress, clock: SimpleNamespace, seen: Callable[[], None]) -> None:
    """Steps 11 to 30 of 40, two images and half a second each, and a validation of a minute."""
    with progress:
        progress.note("from nuclei")
        progress.begin(10, 40, 2)
        for step in range(11, 31):
            clock.now += 0.5
            progress.stepped(step)
            seen()
            if step == 20:
                progress.validating(1, 3)
                seen()
                clock.now += 60
                progress.validated(VALIDATION, Detr(detr_small(1)))
        progress.bad_step(30, [4, 5], {})
        progress.progress(
            Progress(
                step=30, losses={"total": 2.0}, learning_rate=1e-4, gradient_norm=1.0,
                images_per_second=4.0,
            )
        )  # fmt: skip


def test_without_a_terminal_it_is_lines(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    watch(TrainProgress(), clock, lambda: None)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "from nuclei",
        "going on after step 10",
        "step 20/40  validation: thing PQ 0.250  stuff PQ 0.750  PQ 0.500  box AP 0.125",
        "step 30 is skipped: a loss or gradient is not finite; its images: 4, 5",
        # Ten of thirty steps are left, of 3.5 seconds with a share of the validation each.
        "step 30/40  total 2.000  rate 1.0e-04  4.0 images/s  35 s left",
    ]


def test_on_a_terminal_a_bar_tells_speed_and_the_time_that_is_left(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take a pipe for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    progress = TrainProgress()
    seen: list[str] = []

    def look() -> None:
        assert progress.bar is not None
        progress.bar.refresh()
        seen.append(capsys.readouterr().err)

    watch(progress, clock, look)
    assert "learning" in seen[0]
    assert "11/40" in seen[0]
    assert "4.0 images/s  14 s left" in seen[0]
    assert "validating 1/3" in seen[10]
    # The validation is no learning, but takes its time.
    assert "21/40" in seen[11]
    assert "4.0 images/s  2 min left" in seen[11]
    assert "step 20/40  validation: thing PQ 0.250" in "".join(seen)


def test_times_are_written_as_people_say_them() -> None:
    assert [duration(s) for s in (0.4, 89, 90, 3600, 11100)] == [
        "0 s", "89 s", "2 min", "60 min", "3 h 05 min",
    ]  # fmt: skip
