"""Runs that are killed, in real processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from panodetr.training.folder import RunFolder
from panodetr.training.log import read_log

from .conftest import Program
from .test_ranks import TORCHRUN

SELDOM = ("log_every=5", "save_every=3")
"""So that states are written between lines of the log."""

KILLS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL"),
]


def kill_when(
    process: subprocess.Popen[str],
    moment: Callable[[], bool],
    kill: signal.Signals = signal.SIGKILL,
) -> bool:
    """Kill a process, and all that it has started, as soon as something holds.

    A launcher hands other signals than SIGKILL on; its ranks are in sessions of their own.
    """
    while process.poll() is None:
        if moment():
            started = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, kill)
            for child in started if kill == signal.SIGKILL else ():
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            assert "cli/main.py" not in process.communicate()[1]  # in no traceback
            return True
        time.sleep(0.0005)
    process.communicate()
    return False


def moments(folder: RunFolder, chance: random.Random) -> list[Callable[[], bool]]:
    """When to kill: once the folder is there, within writing, and at random."""

    def writing(place: Path, count: int) -> Callable[[], bool]:
        seen: set[str] = set()

        def begun() -> bool:
            if place.is_dir():
                seen.update(p.name for p in os.scandir(place) if p.name.startswith(".writing-"))
            return len(seen) >= count

        return begun

    def validating() -> Callable[[], bool]:
        before = _text(folder.pointer)
        return lambda: _text(folder.pointer) in {"00000008.pt\n", "00000016.pt\n"} - {before}

    def after_next_state() -> Callable[[], bool]:
        before: list[str] = [_text(folder.pointer)]
        due: list[float] = []

        def passed() -> bool:
            if not due and _text(folder.pointer) != before[0]:
                due.append(time.monotonic() + chance.uniform(0, 0.6))
            return bool(due) and time.monotonic() > due[0]

        return passed

    return [
        folder.config.exists,
        writing(folder.states, 3),  # state, pointer, state
        after_next_state(),
        writing(folder.states, 2),  # state, pointer
        writing(folder.path, 2),
        after_next_state(),
        validating(),
        folder.best.exists,
    ]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def assert_same(one: RunFolder, other: RunFolder) -> None:
    for model in ("model", "best"):
        weights = [run.path / model / "model.safetensors" for run in (one, other)]
        assert weights[0].read_bytes() == weights[1].read_bytes(), model
    lines = [read_log(run.log) for run in (one, other)]
    told = [
        [json.dumps(line | {"images_per_second": 0}).replace(str(run.path), "") for line in log]
        for run, log in zip((one, other), lines, strict=True)
    ]
    assert told[0] == told[1]
    for run, log in zip((one, other), lines, strict=True):
        events = EventAccumulator(str(run.board))
        events.Reload()
        for kind, name in (("losses", "total"), ("validation", "pq_things")):
            shown = [(e.step, e.value) for e in events.Scalars(f"{kind}/{name}")]
            logged = [(line["step"], line[kind][name]) for line in log if kind in line]
            assert [step for step, _ in shown] == [step for step, _ in logged]
            assert [v for _, v in shown] == pytest.approx([v for _, v in logged])  # TB: float32


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_weights(
    program: Program, straight: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "killed")
    words = program.begin(folder.path)
    kills = 0
    for number in range(7):
        process = program.start(words)
        kills += kill_when(process, moments(folder, random.Random(number))[number])
        words = program.resume(folder.path)
    assert kills >= 5
    out = program.run(words)
    assert str(folder.model) in out
    assert_same(folder, RunFolder(straight))
    assert not [p for p in folder.path.rglob("*") if p.name.startswith((".writing", ".old"))]


@pytest.mark.soak
@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["alone", "two"])
def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_never_was(
    program: Program, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    settings = [word for change in SELDOM for word in ("--set", change)]
    straight = RunFolder(tmp_path / "straight")
    program.run(program.begin(straight.path, *settings), launcher=launcher)
    left, starts = max(1, int(os.environ.get("PANODETR_SOAK", "10")) // 20), count()
    while left > 0:  # a run that is killed a few times reaches its end, and the next one begins
        folder = RunFolder(tmp_path / str(next(starts)))
        while not (done := (folder.model / "model.safetensors").exists()) and left > 0:
            chance = random.Random(next(starts))
            kill = chance.choice([n for n in KILLS if signal.getsignal(n) is not signal.SIG_IGN])
            begun = folder.config.exists()
            words = program.resume(folder.path) if begun else program.begin(folder.path, *settings)
            process = program.start(words, launcher=launcher)
            left -= kill_when(process, chance.choice(moments(folder, chance)[1:-1]), kill)
        if not done:
            program.run(program.resume(folder.path), launcher=launcher)
        assert_same(folder, straight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [False, True])
def test_a_run_that_is_asked_to_stop_keeps_its_last_step(
    program: Program, straight: Path, tmp_path: Path, number: signal.Signals, to_all: bool
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("this process ignores the signal, and so do those that it starts")
    folder = RunFolder(tmp_path / "stopped")
    seldom = ("--set", "save_every=1000", "--set", "validate_every=0")
    readers = ("--set", "workers=2") if to_all else ()
    process = program.start(program.begin(folder.path, *seldom, *readers))
    while process.poll() is None and not any("losses" in line for line in read_log(folder.log)):
        time.sleep(0.05)
    (os.killpg if to_all else os.kill)(process.pid, number)
    code, out, err = program.finish(process)
    assert code == 128 + number, err
    assert out == ""
    step = int(_text(folder.pointer).partition(".")[0])
    assert 2 <= step < 24
    last = f"stopped by {number.name} after step {step}, and kept; go on with: panodetr train "
    assert err.splitlines()[-1] == f"{last}--resume --out {folder.path}"
    assert "Traceback" not in err
    program.run(program.resume(folder.path, "--set", "validate_every=8", "--set", "save_every=2"))
    weights = [run / "model" / "model.safetensors" for run in (folder.path, straight)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_full_disk_is_one_line_and_costs_nothing(
    program: Program, straight: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "full")
    process = program.start(program.begin(folder.path))
    assert kill_when(process, lambda: _text(folder.pointer) == "00000010.pt\n")
    before = {path.name: path.read_bytes() for path in folder.states.glob("[0-9l]*")}
    code, _, err = program.finish(
        program.start(program.resume(folder.path), largest_file=1_000_000)
    )
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith(f"panodetr: error: cannot write {folder.states / '00000012.pt'}: ")
    assert "Traceback" not in err
    assert {path.name: path.read_bytes() for path in folder.states.iterdir()} == before
    program.run(program.resume(folder.path))
    assert_same(folder, RunFolder(straight))
