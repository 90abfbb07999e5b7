"""What a run reports: its observers, the log, its curves, and the recorder that writes them."""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from panodetr.errors import PanodetrError
from panodetr.files import append_text, atomic_write, write_json, write_text
from panodetr.training.pictures import draw_batch, draw_validation
from panodetr.training.validate import make_predictor, scalars

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.data.dataset import Dataset
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.model.detr import Detr
    from panodetr.objective.targets import Batch
    from panodetr.training.folder import RunFolder
    from panodetr.training.validate import Validation


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One line of the log: means since the line before.

    Attributes:
        step: steps done.
        losses: unweighted, of the last decoder layer; "total" is what is minimised.
        learning_rate: of everything but the backbone.
        gradient_norm: before it is clipped.
        images_per_second: speed, of all processes together.
    """

    step: int
    losses: dict[str, float]
    learning_rate: float
    gradient_norm: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class BadStep:
    """A step that was skipped, because a loss or the gradients' norm was not finite.

    Attributes:
        step: its number, counted from 1.
        image_ids: the data set's own ids of its images.
        losses: as in `Progress`.
        gradient_norm: as in `Progress`.
    """

    step: int
    image_ids: Sequence[int]
    losses: dict[str, float]
    gradient_norm: float


class Observer:
    """Hears how a run goes on: the log, the terminal. This one does nothing with it."""

    def note(self, text: str) -> None:
        """Hear something that a person should know, one line."""

    def begin(self, step: int, validated: int, steps: int, images: int) -> None:
        """Hear that the run goes on.

        Args:
            step: the steps that are done already.
            validated: the last one whose validation is known; 0 where there is none.
            steps: of the whole run.
            images: of a step.
        """

    def batch(self, step: int, batch: Batch) -> None:
        """Hear what a step, counted from 1, is about to learn from."""

    def stepped(self, step: int) -> None:
        """Hear that a step is done."""

    def progress(self, line: Progress) -> None:
        """Hear a line of the log."""

    def bad_step(self, bad: BadStep) -> None:
        """Hear that a step was skipped."""

    def validating(self, done: int, images: int) -> None:
        """Hear how many of this process's images are predicted."""

    def validated(self, validation: Validation, model: Detr) -> None:
        """Hear that a validation of the model is over."""


Line: TypeAlias = dict[str, Any]
"""A line of the log: the number of a step, and its figures."""

RATES = ("learning_rate", "gradient_norm", "images_per_second")

VALIDATED = {
    "validation: PQ": {"pq": "all", "pq_things": "things", "pq_stuff": "stuff"},
    "validation: box AP": {"boxes_ap": "AP", "boxes_ap50": "AP50", "boxes_ap75": "AP75"},
    "validation: mask AP": {
        "instances_ap": "AP", "instances_ap50": "AP50", "instances_ap75": "AP75",
    },
}  # fmt: skip
"""The figures of a validation that are drawn, 0 to 1, by panel and with the names of their curves;
the others are in the log."""

TITLES = {
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm, before clipping",
    "images_per_second": "images a second",
}


class Log:
    """Lines of JSON, each with the step it belongs to.

    A line has "losses" and the rates (`panodetr.training.log.Progress`), or "validation" with
    figures, or "bad_step", or "note".
    """

    def __init__(self, path: Path, step: int, validated: int) -> None:
        """Go on after a step; what a killed run wrote past its state is dropped.

        Args:
            path: of the file.
            step: the last one that the state has done.
            validated: the last one whose validation it knows of; later ones are done again.

        Raises:
            PanodetrError: the system refused to read or write.
        """
        self.path = path
        kept = [
            line
            for line in read_log(path)
            if line["step"] <= (validated if "validation" in line else step)
        ]
        write_text(path, "".join(map(_text, kept)))

    def add(self, step: int, **what: object) -> Line:
        """Add a line, and give it.

        Raises:
            PanodetrError: the system refused to write.
        """
        line = {"step": step, **what}
        append_text(self.path, _text(line))
        return line


def _text(line: Line) -> str:
    return json.dumps(line) + "\n"


class Board:
    """The same figures for TensorBoard and, if asked for, Weights & Biases.

    Both are written by Accelerate's trackers.
    """

    def __init__(
        self, folder: Path, step: int, lines: Iterable[Line], *, wandb: bool = False
    ) -> None:
        """Go on after a step.

        TensorBoard forgets what a killed run wrote of this step and later ones, and gets the points
        of this one again: only the log knows which of them are to be kept.

        Args:
            folder: of TensorBoard's files, within the run's folder.
            step: the last one that is done.
            lines: of the log, as the run goes on with it.
            wandb: whether to write to Weights & Biases too: to the project "panodetr", in a group
                that is named as the run's folder. A run that is resumed is a new one in the group.

        Raises:
            PanodetrError: the system, or Weights & Biases, refused to write.
        """
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        self._folder = folder
        run = folder.resolve().parent
        self._trackers: list[TensorBoardTracker | WandBTracker] = [
            TensorBoardTracker(folder.name, folder.parent, purge_step=step)
        ]
        if wandb:
            self._trackers.append(WandBTracker("panodetr", group=run.name, dir=str(run)))
        with warnings.catch_warnings(), self._one_line_errors():
            warnings.simplefilter("ignore")  # TensorBoard's own, about what it imports
            for tracker in self._trackers:
                tracker.start()
        for line in lines:
            if line["step"] == step:
                self.add(line)

    def add(self, line: Line) -> None:
        """Add a point to the curve of each figure of a line.

        Raises:
            PanodetrError: as for a new board.
        """
        groups: dict[str, dict[str, float]] = {
            "losses": line.get("losses", {}),
            "rates": {name: line[name] for name in RATES if name in line},
            "validation": line.get("validation", {}),
        }
        points = {
            f"{group}/{n}": v for group, figures in groups.items() for n, v in figures.items()
        }
        with self._one_line_errors():
            for tracker in self._trackers:
                tracker.log(points, line["step"])

    def close(self) -> None:
        """Write what is left.

        Raises:
            PanodetrError: as for a new board.
        """
        with self._one_line_errors():
            for tracker in self._trackers:
                tracker.finish()

    @contextmanager
    def _one_line_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise PanodetrError(f"cannot write {self._folder}: {reason}") from error
        except Exception as error:
            if not type(error).__module__.startswith("wandb"):
                raise
            reason = " ".join(str(error).split())
            raise PanodetrError(
                f"Weights & Biases failed: {reason}; log in with `wandb login`, or go on without: "
                "--set wandb=false"
            ) from error


def read_log(path: Path) -> list[Line]:
    """Read the whole lines of a log; none where there is no log yet.

    A kill or a full disk can leave a part of a line, which is passed over.

    Raises:
        PanodetrError: the system refused to read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PanodetrError(f"cannot read {path}: {error.strerror or error}") from error
    lines = (_parse(line) for line in text.splitlines())
    return [line for line in lines if line is not None]


def _parse(line: str) -> Line | None:
    """Give the fields of a line; None for what is no line of a log."""
    try:
        fields: object = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("step"), int):
        return None
    return fields


def plot_log(lines: list[Line], picture: Path) -> None:
    """Draw each loss, the figures of the validations, and the rates over the steps.

    Raises:
        PanodetrError: the system refused to write.
    """
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in lines:
        figures: dict[str, float] = line.get("validation", {})
        shown = [(f"loss: {name}", name, value) for name, value in line.get("losses", {}).items()]
        shown += [(TITLES[name], name, line[name]) for name in RATES if name in line]
        shown += [
            (panel, curve, figures[name])
            for panel, curves in VALIDATED.items()
            for name, curve in curves.items()
            if name in figures
        ]
        for panel, name, value in shown:
            panels.setdefault(panel, {}).setdefault(name, []).append((line["step"], value))
    if not panels:
        return
    rows = -(-len(panels) // 4)
    figure = Figure(figsize=(15, 2.8 * rows), layout="constrained")
    for place, (panel, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, 4, place)
        for name, points in curves.items():
            axes.plot(*zip(*points, strict=True), ".-" if len(points) < 20 else "-", label=name)
        axes.set_title(panel)
        axes.set_xlabel("step")
        axes.set_xlim(0, 1.03 * lines[-1]["step"])
        axes.grid(alpha=0.3)
        if panel in VALIDATED:
            highest = max(value for points in curves.values() for _, value in points)
            axes.set_ylim(0, 1.1 * highest or 1)
            axes.legend(fontsize="small")
    with atomic_write(picture) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


DRAWN_BATCHES = 3


class Recorder(Observer):
    """The observer that keeps the run's folder, but for its states and models."""

    def __init__(
        self,
        folder: RunFolder,
        spec: ModelSpec,
        data: Dataset,
        truth: GroundTruth | None,
        device: torch.device,
        audience: Observer,
        *,
        wandb: bool = False,
    ) -> None:
        """Write nothing yet.

        Args:
            folder: the run's.
            spec: of the model.
            data: what it learns from.
            truth: what it is validated with.
            device: where it is validated.
            audience: another observer, which hears everything too.
            wandb: whether Weights & Biases gets the figures too.
        """
        self._folder = folder
        self._spec = spec
        self._images = {sample.image_id: str(sample.path) for sample in data.samples}
        self._truth = truth
        self._device = device
        self._audience = audience
        self._wandb = wandb
        self._notes: list[str] = []  # before the step is known that they belong to
        self._step = 0
        self._log: Log | None = None
        self._board: Board | None = None

    def close(self) -> None:
        """Draw the curves, and close what is open."""
        try:
            if self._board is not None:
                self._board.close()
        finally:
            self._plot()

    def close_after(self, error: PanodetrError) -> None:
        """Close with a line on why the run ends, as far as the system lets."""
        with suppress(PanodetrError):
            if self._log is not None:
                self._log.add(self._step, note=str(error))
        with suppress(PanodetrError):
            self.close()

    def note(self, text: str) -> None:
        """A line for the log."""
        if self._log is None:
            self._notes.append(text)
        else:
            self._log.add(self._step, note=text)
        self._audience.note(text)

    def begin(self, step: int, validated: int, steps: int, images: int) -> None:
        """Go on with the log after the step."""
        self._step = step
        self._log = Log(self._folder.log, step, validated)
        lines = read_log(self._folder.log)
        self._board = Board(self._folder.board, step, lines, wandb=self._wandb)
        for text in self._notes:
            self._log.add(step, note=text)
        self._audience.begin(step, validated, steps, images)

    def batch(self, step: int, batch: Batch) -> None:
        """Draw the first ones."""
        if step <= DRAWN_BATCHES:
            picture = draw_batch(batch, self._spec)
            _write_picture(self._folder.pictures / f"batch_{step}.png", picture)

    def stepped(self, step: int) -> None:
        """Keep the number."""
        self._step = step
        self._audience.stepped(step)

    def progress(self, line: Progress) -> None:
        """Write the line, and its points on the curves."""
        assert self._log is not None
        assert self._board is not None
        fields = asdict(line)
        self._board.add(self._log.add(fields.pop("step"), **fields))
        self._audience.progress(line)

    def bad_step(self, bad: BadStep) -> None:
        """Write the images down: one of them may be what is wrong."""
        assert self._log is not None
        values = bad.losses | {"gradient_norm": bad.gradient_norm}
        shown = {
            name: value if np.isfinite(value) else str(value) for name, value in values.items()
        }
        path = self._folder.bad_steps / f"{bad.step:08}.json"
        images = [{"image_id": i, "image": self._images[i]} for i in bad.image_ids]
        write_json(path, {"step": bad.step, "losses": shown, "images": images})
        self._log.add(bad.step, bad_step=str(path.relative_to(self._folder.path)))
        self._audience.bad_step(bad)

    def validating(self, done: int, images: int) -> None:
        """Nothing to keep."""
        self._audience.validating(done, images)

    def validated(self, validation: Validation, model: Detr) -> None:
        """Write the figures, and draw the curves and some of the predictions."""
        assert self._log is not None
        assert self._board is not None
        assert self._truth is not None
        figures = scalars(validation.metrics)
        self._board.add(self._log.add(validation.step, validation=figures))
        predictor = make_predictor(model, self._spec, self._device)
        picture = self._folder.pictures / f"validation_{validation.step:08}.png"
        _write_picture(picture, draw_validation(predictor, self._truth))
        self._plot()
        self._audience.validated(validation, model)

    def _plot(self) -> None:
        plot_log(read_log(self._folder.log), self._folder.results)


def _write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary)
