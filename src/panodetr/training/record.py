"""Writes down what a run tells, in the run's folder, and tells it on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from panodetr.errors import PanodetrError
from panodetr.files import atomic_write, write_json
from panodetr.training.log import Board, Log, plot_log, read_log, scalars
from panodetr.training.pictures import draw_batch, draw_validation
from panodetr.training.validate import make_predictor

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.data.dataset import Dataset
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.model.detr import Detr
    from panodetr.objective.targets import Batch
    from panodetr.training.folder import RunFolder
    from panodetr.training.observe import BadStep, Observer, Progress
    from panodetr.training.validate import Validation

DRAWN_BATCHES = 3


class Recorder:
    """The observer that keeps the run's folder, but for its states and models."""

    def __init__(
        self,
        folder: RunFolder,
        spec: ModelSpec,
        data: Dataset,
        truth: GroundTruth | None,
        device: torch.device,
        audience: Observer,
    ) -> None:
        """Write nothing yet.

        Args:
            folder: the run's.
            spec: of the model.
            data: what it learns from.
            truth: what it is validated with.
            device: where it is validated.
            audience: who is told on.
        """
        self._folder = folder
        self._spec = spec
        self._images = {sample.image_id: str(sample.path) for sample in data.samples}
        self._truth = truth
        self._device = device
        self._audience = audience
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
        self._board = Board(self._folder.board, step, read_log(self._folder.log))
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
