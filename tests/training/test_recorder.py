from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from panodetr.data.dataset import Dataset
from panodetr.errors import PanodetrError
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.log import Observer, read_log
from panodetr.training.recorder import Recorder

Begin = Callable[..., Recorder]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "night")


@pytest.fixture
def begin(folder: RunFolder, tiny_run: TrainConfig, discs: Dataset) -> Iterator[Begin]:
    """Record in the folder from a step on.

    All are closed at the end: TensorBoard's threads would write to a folder that is gone.
    """
    made: list[Recorder] = []

    def make(step: int = 0, validated: int = 0, *, wandb: bool = False) -> Recorder:
        config = replace(tiny_run, wandb=wandb)
        made.append(
            Recorder(folder, config, discs, None, Observer(), step=step, validated=validated)
        )
        return made[-1]

    yield make
    for recorder in made:
        with suppress(PanodetrError):  # a test may have broken the folder
            recorder.close()


def shown(folder: RunFolder, name: str) -> list[tuple[int, float]]:
    """The points of a curve, as TensorBoard reads them."""
    events = EventAccumulator(str(folder.board))
    events.Reload()
    return [(e.step, e.value) for e in events.Scalars(name)]


def of_an_earlier_second(folder: RunFolder) -> Path:
    """Rename the one file of TensorBoard: it reads files by second, process and number, as text.

    A run that was killed is resumed in a later second, by another process.
    """
    (written,) = folder.board.iterdir()
    return written.rename(folder.board / "events.out.tfevents.0000000001.host.1.0")


@pytest.mark.parametrize(
    ("start", "expected"),
    [(15, [(10, 10), (20, 120)]), (20, [(10, 10), (20, 20), (30, 130)]), (0, [(10, 110)])],
)
@pytest.mark.parametrize("torn", [0, 7])
def test_a_run_that_was_killed_has_every_figure_once(
    folder: RunFolder, begin: Begin, start: int, expected: list[tuple[int, float]], torn: int
) -> None:
    log = begin()
    for step in (10, 20, 30):
        log.add(step, losses={"total": float(step)})
    written = of_an_earlier_second(folder)
    whole = written.read_bytes()
    written.write_bytes(whole[: len(whole) - torn])  # killed while it wrote the last one
    resumed = begin(start, 0)
    after = next(step for step in (10, 20, 30) if step > start)
    resumed.add(after, losses={"total": float(after + 100)})
    resumed.close()
    assert shown(folder, "losses/total") == expected
    assert [(e["step"], e["losses"]["total"]) for e in read_log(folder.log)] == expected
    assert folder.results.exists()


@pytest.mark.parametrize("known", [True, False])
def test_a_validation_that_the_state_does_not_know_of_is_made_again(
    folder: RunFolder, begin: Begin, known: bool
) -> None:
    log = begin()
    log.add(10, losses={"total": 1.0}, learning_rate=0.5)
    log.add(10, validation={"pq": 0.25})
    of_an_earlier_second(folder)
    resumed = begin(10, 10 if known else 0)
    assert ["validation" in line for line in read_log(folder.log)] == [False, True][: 1 + known]
    if not known:
        resumed.add(10, validation={"pq": 0.25})
    resumed.close()
    for name, value in (("losses/total", 1), ("rates/learning_rate", 0.5), ("validation/pq", 0.25)):
        assert shown(folder, name) == [(10, value)]


@pytest.mark.parametrize(
    "torn", [b'{"step": 20, "losses": {"tot', b"\xff\xfe\n", b"[1]\n", b"{}\n"]
)
def test_a_line_that_is_not_whole_is_passed_over_and_cut_off(
    folder: RunFolder, begin: Begin, torn: bytes
) -> None:
    assert read_log(folder.log) == []
    begin().add(10, note="a")
    with folder.log.open("ab") as file:
        file.write(torn)
    assert read_log(folder.log) == [{"step": 10, "note": "a"}]
    begin(20, 0).add(30, note="b")
    assert folder.log.read_text() == '{"step": 10, "note": "a"}\n{"step": 30, "note": "b"}\n'


def test_a_run_that_goes_on_tells_no_note_twice_and_not_why_it_ended(
    folder: RunFolder, begin: Begin
) -> None:
    log = begin()
    log.note("a")
    log.add(10, ended="stopped")
    log.add(10, validation={"pq": 0.25})  # the state does not know of it
    log.note("b")
    again = begin(10, 0)
    assert [line.get("note") for line in read_log(folder.log)] == ["a"]
    for text in ("a", "b"):
        again.note(text)
    assert [line.get("note") for line in read_log(folder.log)] == ["a", "b"]


def test_a_log_that_cannot_be_written_is_one_line(folder: RunFolder, begin: Begin) -> None:
    log = begin()
    folder.log.unlink()
    folder.log.mkdir()
    with pytest.raises(PanodetrError, match=r"cannot write .*log\.jsonl"):
        log.add(1, note="a")
    with pytest.raises(PanodetrError, match=r"cannot read .*log\.jsonl"):
        begin()


def test_weights_and_biases_gets_the_same_figures(
    folder: RunFolder, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(Exception):
        pass

    Refused.__module__ = "wandb.errors"
    run, module = Mock(), Mock()
    module.init.return_value = run
    monkeypatch.setitem(sys.modules, "wandb", module)
    log = begin(wandb=True)
    assert module.init.call_args.kwargs["group"] == "night"
    log.add(10, losses={"total": 1.0})
    log.add(10, note="no figures")
    run.log.assert_called_once_with({"losses/total": 1.0}, step=10)
    log.close()
    run.finish.assert_called_once()
    module.init.side_effect = Refused("no API key\nlog in")
    with pytest.raises(PanodetrError, match=r"Biases failed: no API key log in; .*wandb=false"):
        begin(wandb=True)
