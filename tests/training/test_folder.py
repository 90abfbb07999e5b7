from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.process import start

from panodetr.checkpoints.load import load_checkpoint
from panodetr.errors import PanodetrError, TrainingError
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder, held, is_held
from panodetr.training.start import make_state
from panodetr.training.state import TrainState

CPU = torch.device("cpu")


@pytest.fixture
def state(tiny_run: TrainConfig) -> TrainState:
    return make_state(tiny_run, CPU, print)


@pytest.fixture
def folder(tmp_path: Path, state: TrainState) -> RunFolder:
    """A run with states after steps 4 and 6, and one after step 2 that is gone."""
    folder = RunFolder(tmp_path / "run")
    for step in (2, 4, 6):
        state.step = step
        folder.save(state)
    return folder


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    half = len(whole) // 2
    flipped = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
    parts = {"cut": whole[:half], "garbage": b"no state at all", "empty": b"", "bit": flipped}
    if how == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(parts[how])


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.states.iterdir())


def test_the_last_two_states_are_kept_and_the_newer_one_is_named_and_read(
    folder: RunFolder, tiny_run: TrainConfig
) -> None:
    assert names(folder) == ["00000004.pt", "00000006.pt", "last"]
    assert folder.pointer.read_text() == "00000006.pt\n"
    fresh = make_state(replace(tiny_run, seed=5), CPU, print)
    notes: list[str] = []
    folder.load(fresh, notes.append)
    assert (fresh.step, notes) == (6, [])


@pytest.mark.parametrize("how", ["cut", "garbage", "empty", "bit", "list"])
def test_a_broken_state_falls_back_to_the_one_before(
    folder: RunFolder, state: TrainState, how: str
) -> None:
    damage(folder.states / "00000006.pt", how)
    notes: list[str] = []
    reopened = RunFolder(folder.path)
    reopened.load(state, notes.append)
    assert state.step == 4
    (note,) = notes
    assert "00000006.pt" in note
    assert "00000004.pt" in note
    assert "\n" not in note
    state.step = 5
    reopened.save(state)  # the broken one is not one of the two that are kept
    assert names(folder) == ["00000004.pt", "00000005.pt", "last"]


@pytest.mark.parametrize("pointer", [None, "", "nonsense", "00000099.pt", "00000004.pt"])
def test_a_lost_pointer_is_no_harm(
    folder: RunFolder, state: TrainState, pointer: str | None
) -> None:
    if pointer is None:
        folder.pointer.unlink()
    else:
        folder.pointer.write_text(pointer)
    folder.load(state, print)
    assert state.step == (4 if pointer == "00000004.pt" else 6)


def test_a_state_of_another_run_is_refused_and_so_are_states_that_are_all_broken(
    folder: RunFolder, state: TrainState, tiny_run: TrainConfig
) -> None:
    other = make_state(replace(tiny_run, token_weight=0.0), CPU, print)
    with pytest.raises(TrainingError, match="resume with the run's own settings"):
        folder.load(other, print)
    for path in folder.states.glob("*.pt"):
        damage(path, "cut")
    with pytest.raises(TrainingError, match=r"cannot resume from .*00000006\.pt: ") as caught:
        folder.load(state, print)
    assert "\n" not in str(caught.value)


def test_a_state_that_cannot_or_must_not_be_written_leaves_the_one_before(
    folder: RunFolder, state: TrainState
) -> None:
    state.step = 8
    (folder.states / "00000008.pt").mkdir()  # in the way
    with pytest.raises(PanodetrError, match="cannot write"):
        folder.save(state)
    (folder.states / "00000008.pt").rmdir()
    with torch.no_grad():
        state.learner.model.queries.weight[2, 3] = float("inf")
    with pytest.raises(TrainingError, match=r"model\.queries\.weight is not finite after step 8"):
        folder.save(state)
    assert names(folder) == ["00000004.pt", "00000006.pt", "last"]
    assert folder.pointer.read_text() == "00000006.pt\n"


def test_models_are_replaced_whole(
    folder: RunFolder, state: TrainState, tiny_run: TrainConfig
) -> None:
    model = state.kept_model
    folder.save_model(folder.best, tiny_run.spec, model, {"step": 1})
    with torch.no_grad():
        model.queries.weight.fill_(0.25)
    folder.save_model(folder.best, tiny_run.spec, model, {"step": 2})
    _, found = load_checkpoint(folder.best)
    assert found.queries.weight.unique().tolist() == [0.25]
    assert sorted(p.name for p in folder.best.iterdir()) == [
        "config.json",
        "metrics.json",
        "model.safetensors",
    ]
    assert not [path for path in folder.path.iterdir() if path.name.startswith(".")]


def test_what_a_killed_process_was_writing_is_cleared(folder: RunFolder) -> None:
    (folder.states / ".writing-0123456789ab.pt").write_bytes(b"half")
    (folder.path / ".old-0123456789ab").mkdir()
    (folder.path / ".writing-0123456789ab.jsonl").write_bytes(b"half")
    (folder.path / ".writing-best").mkdir()
    (folder.path / ".writing-best" / "config.json").write_text("{}")
    folder.clear_leftovers()
    left = sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*"))
    assert left == ["states", "states/00000004.pt", "states/00000006.pt", "states/last"]


@pytest.mark.parametrize(
    "path",
    [
        "other/.writing-0123456789ab.pt",  # of a run that is at work
        "other/states/.writing-0123456789ab.pt",
        ".writing-course/chapter.md",
        ".old-images/1.png",
        "states/.writing-best/mine",
        ".old-0123456789abc",
        ".writing-0123456789ab.tar.gz",
    ],
)
def test_what_others_have_in_the_folder_stays(folder: RunFolder, path: str) -> None:
    strange = folder.path / path
    strange.parent.mkdir(parents=True, exist_ok=True)
    strange.write_text("mine")
    folder.clear_leftovers()
    assert strange.read_text() == "mine"


HOLD = """
import sys, time
from pathlib import Path
from panodetr.training.folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_system_lets_go_of_a_run_whose_process_is_killed(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    process = start("-c", HOLD, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert is_held(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / ".lock").exists()
    assert not is_held(tmp_path)
    with held(tmp_path / "empty"), held(tmp_path / "run"):  # the empty one is removed again
        assert is_held(tmp_path / "run")
        (tmp_path / "run" / "config.json").touch()
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == [".lock", "run", "run/config.json"]
    in_the_way = held(tmp_path / "run" / "config.json" / "run")
    with pytest.raises(PanodetrError, match=r"cannot write .*config\.json"), in_the_way:
        pass
