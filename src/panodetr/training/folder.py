"""The folder of a run: where everything lies, and which state comes next.

config.json         the recipe, what was changed in it, the data, and the configuration
log.jsonl           a line every so many steps and every validation
results.png         the log as curves
tensorboard/        the same for TensorBoard
pictures/           augmented batches with their ground truth; predictions beside the ground truth
states/             the last two states to resume from; the file `last` names the newer one
held_out.txt        the images that --val-split holds out, a line each
bad_steps/          the images of steps whose loss was not finite
best/               the model with the best validation, and its metrics
model/              the model after the last step
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import METRICS_FILE, ModelSpec
from panodetr.errors import PanodetrError, TrainingError, UsageError, reason_of
from panodetr.files import is_leftover, write_json, write_text
from panodetr.model.network import Network
from panodetr.training.state import TrainState

KEPT_STATES = 2


class RunFolder:
    """One run's folder; nothing is made until something is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.log = path / "log.jsonl"
        self.results = path / "results.png"
        self.board = path / "tensorboard"
        self.pictures = path / "pictures"
        self.states = path / "states"
        self.pointer = self.states / "last"  # names the newest state
        self.held_out = path / "held_out.txt"
        self.bad_steps = path / "bad_steps"
        self.best = path / "best"
        self.model = path / "model"
        self._own = (self.states, self.best, self.model, self.log, self.held_out)
        self._kept: list[str] = []  # good states, oldest first

    def check_free(self) -> None:
        """Raise a UsageError where a new run would replace something or add to it."""
        if self.config.exists():
            raise UsageError(
                f"{self.path} holds a run already; go on with it by --resume, or choose another "
                "--out"
            )
        for path in self._own:
            if path.exists():
                raise UsageError(
                    f"{path} is there already, and a run writes its own; choose another --out"
                )

    def save(self, state: TrainState) -> None:
        """Write a state, let `last` name it, and remove all but it and the one before.

        Raises:
            TrainingError: a weight is not finite.
            PanodetrError: the system refused to write; `last` names the state before.
        """
        name = f"{state.step:08}.pt"
        state.save(self.states / name)
        write_text(self.pointer, name + "\n")
        self._kept = [*(kept for kept in self._kept if kept != name), name][-KEPT_STATES:]
        for path in self.states.glob("[0-9]*.pt"):
            if path.name not in self._kept:
                path.unlink()

    def load(self, state: TrainState, note: Callable[[str], None]) -> None:
        """Load the newest undamaged state; without any, the run starts from its beginning.

        Args:
            state: what is taken up.
            note: called with a line where a state is broken.

        Raises:
            TrainingError: there are states, and none can be read.
        """
        failed: TrainingError | None = None
        for path in self.newest_first():
            try:
                state.load(path)
            except TrainingError as error:
                failed = failed or error
                continue
            if failed is not None:
                note(f"{failed}; going on from the state before, {path.name}")
            self._kept = [path.name]
            return
        if failed is not None:
            raise failed

    def newest_first(self) -> list[Path]:
        """Give the states, the one that `last` names first."""
        paths = sorted(self.states.glob("[0-9]*.pt"), reverse=True)
        named = ""
        with suppress(OSError, UnicodeDecodeError):
            named = self.pointer.read_text(encoding="utf-8").strip()
        return sorted(paths, key=lambda path: path.name != named)

    def save_model(
        self,
        place: Path,
        spec: ModelSpec,
        model: Network,
        metrics: Mapping[str, object] | None = None,
    ) -> None:
        """Write a checkpoint into `best` or `model`; a whole one is always there.

        Its files are renamed one by one over those of the model before, whose `config.json` is the
        same.

        Args:
            place: `best` or `model`.
            spec: the model's specification.
            model: with the weights.
            metrics: what it reached, for `metrics.json`.

        Raises:
            PanodetrError: the system refused to write.
        """
        fresh = _scratch(place)
        save_checkpoint(fresh, spec, model.state_dict())
        if metrics is not None:
            write_json(fresh / METRICS_FILE, metrics)
        place.mkdir(exist_ok=True)
        weights_first = sorted(fresh.iterdir(), key=lambda file: file.name == METRICS_FILE)
        for file in weights_first:
            file.replace(place / file.name)
        fresh.rmdir()

    def clear_leftovers(self) -> None:
        """Remove what a killed process of this run was writing; whatever else lies here stays."""
        for place in (self.path, self.pictures, self.states, self.bad_steps):
            for path in filter(is_leftover, [*place.glob(".*")]):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        for place in (self.best, self.model):
            shutil.rmtree(_scratch(place), ignore_errors=True)


def _scratch(place: Path) -> Path:
    """Where a model is written before its files are renamed into `place`."""
    return place.with_name(f".writing-{place.name}")


LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Generator[None, None, None]:
    """Hold the lock of a run's folder, which is made, within the block.

    The system releases the lock when the process dies, however it dies. A folder in which nothing
    was written is removed again.

    Raises:
        TrainingError: another process holds the lock.
        PanodetrError: the system refused to write.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise TrainingError(
            f"{folder} is in use by another process; wait for its end or stop it, "
            "or choose another --out"
        ) from error
    except OSError as error:
        raise PanodetrError(f"cannot write {folder}: {reason_of(error)}") from error
    try:
        yield
    finally:
        if sys.platform != "win32":  # where a file that is open cannot be removed
            with suppress(OSError):
                (folder / LOCK).unlink()
                folder.rmdir()
        lock.release()


def hold_next(folder: Path, stack: ExitStack) -> Path:
    """Hold the first of NAME, NAME-2, NAME-3 … that is free; `stack` releases it when it closes."""
    path, number = folder, 1
    while True:
        with suppress(UsageError, TrainingError):
            RunFolder(path).check_free()
            stack.enter_context(held(path))
            return path
        number += 1
        path = folder.with_name(f"{folder.name}-{number}")


def is_held(folder: Path) -> bool:
    """Whether a process uses a run's folder."""
    try:
        if (folder / LOCK).exists():
            with FileLock(folder / LOCK, timeout=0):
                return False
    except OSError as error:
        return isinstance(error, Timeout)
    return False


def newest_run(runs: Path, name: str | None = None) -> Path:
    """Find the run that was used last, and that no other process uses.

    Args:
        runs: the folder of all runs.
        name: of the run: only NAME, NAME-2, NAME-3 … count; None counts all.

    Raises:
        TrainingError: there is none.
    """
    every = [path.parent for path in runs.glob("*/config.json")]
    if name is not None:
        every = [run for run in every if re.fullmatch(rf"{re.escape(name)}(-\d+)?", run.name)]
    found = [run for run in every if not is_held(run)]
    if every and not found:
        raise TrainingError(
            f"the runs in {runs} are all in use by other processes; "
            "wait for the end of one, or name another run's folder with --out"
        )
    if not found:
        called = "" if name is None else f" called {name}"
        raise TrainingError(
            f"{runs} holds no run{called} to resume; name the run's folder with --out, or start one"
        )
    return max(found, key=lambda run: max(p.stat().st_mtime for p in (run, *run.glob("states"))))
