from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from panodetr.errors import PanodetrError
from panodetr.training.log import Board, Line, Log, plot_log, read_log
from panodetr.training.validate import scalars


def test_lines_come_back_in_order_and_a_resumed_run_replaces_its_own(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    log = Log(path, 0, 0)
    for step in (10, 20, 30):
        log.add(step, losses={"total": 1.0})
    assert [entry["step"] for entry in read_log(path)] == [10, 20, 30]
    Log(path, 15, 0).add(20, losses={"total": 5.0})
    assert [(e["step"], e["losses"]["total"]) for e in read_log(path)] == [(10, 1.0), (20, 5.0)]


@pytest.mark.parametrize(
    "torn", [b'{"step": 20, "losses": {"tot', b"\xff\xfe\n", b"[1]\n", b"{}\n"]
)
def test_a_line_that_is_not_whole_is_passed_over_and_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log.jsonl"
    Log(path, 0, 0).add(10, note="a")
    with path.open("ab") as file:
        file.write(torn)
    assert read_log(path) == [{"step": 10, "note": "a"}]
    Log(path, 20, 0).add(30, note="b")
    assert path.read_text() == '{"step": 10, "note": "a"}\n{"step": 30, "note": "b"}\n'


@pytest.mark.parametrize(("validated", "kept"), [(0, []), (10, [10]), (20, [10, 20])])
def test_a_validation_that_the_state_does_not_know_of_is_dropped(
    tmp_path: Path, validated: int, kept: list[int]
) -> None:
    path = tmp_path / "log.jsonl"
    log = Log(path, 0, 0)
    for step in (10, 20):
        log.add(step, losses={"total": 1.0})
        log.add(step, validation={"pq": 0.25})
    Log(path, 20, validated)
    assert [line["step"] for line in read_log(path) if "losses" in line] == [10, 20]
    assert [line["step"] for line in read_log(path) if "validation" in line] == kept


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", 0, 0)
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(PanodetrError, match=r"cannot write .*log\.jsonl"):
        log.add(1, note="a")
    with pytest.raises(PanodetrError, match=r"cannot read .*log\.jsonl"):
        Log(tmp_path / "log.jsonl", 0, 0)


def test_the_picture_shows_losses_that_begin_late_and_validations(tmp_path: Path) -> None:
    rates = {"learning_rate": 0.1, "gradient_norm": 1.0, "images_per_second": 2.0}
    lines = [
        {"step": 10, "losses": {"total": 1.0}, **rates},
        {"step": 20, "losses": {"total": 1.0, "dice": 0.5}, **rates},
        {"step": 20, "validation": {"pq": 0.5, "pq_things": 0.4, "boxes_ap": 0.1}},
        {"step": 20, "note": "nothing to draw"},
    ]
    plot_log(lines[:1], tmp_path / "few.png")
    plot_log(lines, tmp_path / "many.png")
    with Image.open(tmp_path / "few.png") as few, Image.open(tmp_path / "many.png") as many:
        assert few.format == many.format == "PNG"
        assert many.height > few.height
    plot_log([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def of_an_earlier_second(folder: Path) -> Path:
    """Rename the one file of TensorBoard: it reads files by second, process and number, as text.

    A run that was killed is resumed in a later second, by another process.
    """
    (written,) = folder.iterdir()
    return written.rename(folder / "events.out.tfevents.0000000001.host.1.0")


@pytest.mark.parametrize(
    ("start", "expected"),
    [(15, [(10, 10), (20, 120)]), (20, [(10, 10), (20, 20), (30, 130)]), (0, [(10, 110)])],
)
@pytest.mark.parametrize("torn", [0, 7])
def test_tensorboard_reads_the_same_figures_of_a_run_that_was_killed(
    tmp_path: Path, start: int, expected: list[tuple[int, float]], torn: int
) -> None:
    board = Board(tmp_path, 0, [])
    lines: list[Line] = [{"step": step, "losses": {"total": float(step)}} for step in (10, 20, 30)]
    for line in lines:
        board.add(line)
    written = of_an_earlier_second(tmp_path)
    whole = written.read_bytes()
    written.write_bytes(whole[: len(whole) - torn])  # killed while it wrote the last one
    resumed = Board(tmp_path, start, [line for line in lines if line["step"] <= start])
    after = next(step for step in (10, 20, 30) if step > start)
    resumed.add({"step": after, "losses": {"total": float(after + 100)}})
    resumed.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("losses/total")] == expected


@pytest.mark.parametrize("known", [True, False])
def test_tensorboard_has_a_validation_that_a_killed_run_made_once(
    tmp_path: Path, known: bool
) -> None:
    lines: list[Line] = [
        {"step": 10, "losses": {"total": 1.0}, "learning_rate": 0.5},
        {"step": 10, "validation": {"pq": 0.25}},
    ]
    board = Board(tmp_path, 0, [])
    for line in lines:
        board.add(line)
    of_an_earlier_second(tmp_path)
    resumed = Board(tmp_path, 10, lines if known else lines[:1])
    if not known:
        resumed.add(lines[1])
    resumed.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for name, value in (("losses/total", 1), ("rates/learning_rate", 0.5), ("validation/pq", 0.25)):
        assert [(e.step, e.value) for e in events.Scalars(name)] == [(10, value)]


def test_weights_and_biases_gets_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(Exception):
        pass

    Refused.__module__ = "wandb.errors"
    run, module = Mock(), Mock()
    module.init.return_value = run
    monkeypatch.setitem(sys.modules, "wandb", module)
    board = Board(tmp_path / "night" / "tensorboard", 0, [], wandb=True)
    assert module.init.call_args.kwargs["group"] == "night"
    board.add({"step": 10, "losses": {"total": 1.0}})
    run.log.assert_called_once_with({"losses/total": 1.0}, step=10)
    board.close()
    run.finish.assert_called_once()
    module.init.side_effect = Refused("no API key\nlog in")
    with pytest.raises(PanodetrError, match=r"Biases failed: no API key log in; .*wandb=false"):
        Board(tmp_path / "night" / "tensorboard", 0, [], wandb=True)


def test_figures_over_all_classes_are_the_ones_that_are_logged() -> None:
    metrics = {
        "step": 3,
        "images": 4,
        "pq": 0.5,
        "per_class": {"a": {"pq": 0.5}},
        "boxes": {"ap": 0.25, "ap_small": None, "per_class": {}},
    }
    assert scalars(metrics) == {"pq": 0.5, "boxes_ap": 0.25}
