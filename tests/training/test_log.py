from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from panodetr.training import log
from panodetr.training.loop import Progress

if TYPE_CHECKING:
    from pathlib import Path


def line(step: int, total: float = 1.0) -> Progress:
    return Progress(step=step, losses={"total": total}, learning_rate=0.1, crops_per_second=2.0)


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert log.read(path) == []
    for step in (10, 20, 30):
        log.append(path, line(step))
    assert [entry["step"] for entry in log.read(path)] == [10, 20, 30]
    assert log.read(path)[0]["losses"] == {"total": 1.0}


def test_a_resumed_run_replaces_what_the_killed_one_wrote_past_its_state(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for step in (10, 20, 30):
        log.append(path, line(step, total=1.0))
    log.append(path, line(20, total=5.0))
    assert [(e["step"], e["losses"]["total"]) for e in log.read(path)] == [(10, 1.0), (20, 5.0)]


def test_the_picture_shows_losses_that_begin_late(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs panodetr[train]")
    path = tmp_path / "log.jsonl"
    log.append(path, line(10))
    late = Progress(
        step=20, losses={"total": 1.0, "dice": 0.5}, learning_rate=0.1, crops_per_second=2.0
    )
    log.append(path, late)
    log.plot(path, tmp_path / "results.png")
    with Image.open(tmp_path / "results.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 100
