"""Writes a run's log and plots: figures, and overlays of what the model sees and predicts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import takewhile

import numpy as np
from PIL import Image

from panodetr.boxes import cxcywh_to_xyxy
from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.augment import View
from panodetr.data.dataset import Dataset, read_objects
from panodetr.data.samples import InstanceImage, Sample, source_of
from panodetr.data.show import Captioned, draw_truth, lay_out
from panodetr.data.targets import number_pixels, view_target
from panodetr.errors import Interrupted, PanodetrError, reason_of
from panodetr.evaluation.ground_truth import GroundTruth, TruthImage
from panodetr.files import append_text, write_json, write_picture, write_text
from panodetr.model.network import Network
from panodetr.objective.targets import Batch
from panodetr.predict import Predictor
from panodetr.results.result import ImageResult, PanopticResult
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.log import RATES, Line, Observer, Progress, plot_log, read_log
from panodetr.training.validate import Validation, make_predictor, scalars

DRAWN_BATCHES = 3

IMAGES = 4
"""Images on one plot; more would be too small to see."""

_PADDING = 110  # grey: neither a dark image nor a bright one ends so


class Recorder(Observer):
    """The observer that keeps the run's folder, but for its states and models.

    A line of its log has its step, and "losses" with the rates (`Progress`), or "validation" with
    figures, or "bad_step", or "note", or "ended": why the run ended early, until it goes on.
    Figures go to trackers, and are drawn as curves.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: TrainConfig,
        data: Dataset,
        truth: GroundTruth | None,
        observer: Observer,
        *,
        step: int,
        validated: int,
    ) -> None:
        """Go on after a step; what a killed run wrote past its state is dropped.

        With `wandb` Weights & Biases gets a run of its own in the project "panodetr", in a group
        that is named as the run's folder.

        Args:
            folder: the run's.
            config: the run.
            data: what it learns from.
            truth: what it is validated with.
            observer: another one, which gets all events but batches, too.
            step: the last one that the state has done.
            validated: the last one whose validation it knows of; later ones are done again.

        Raises:
            PanodetrError: the system refused to read or write, or Weights & Biases did.
        """
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        self._folder, self._spec = folder, config.spec
        self._data, self._truth = data, truth
        self._observer, self._step = observer, step
        self.begin, self.validating = observer.begin, observer.validating  # nothing to keep
        self._plotted = False
        known = takewhile(
            lambda line: line["step"] <= (validated if "validation" in line else step),
            read_log(folder.log),
        )
        kept = [line for line in known if "ended" not in line]
        self._noted = {line["note"] for line in kept if "note" in line}
        write_text(folder.log, "".join(json.dumps(line) + "\n" for line in kept))
        self._trackers: list[TensorBoardTracker | WandBTracker] = []
        if config.wandb:  # first: where it refuses, TensorBoard's thread has not begun
            run = folder.path.resolve()
            self._trackers.append(WandBTracker("panodetr", group=run.name, dir=str(run)))
        self._trackers.append(TensorBoardTracker(folder.board.name, folder.path, purge_step=step))
        with warnings.catch_warnings(), self._one_line_errors():
            warnings.simplefilter("ignore")  # TensorBoard's own, about what it imports
            for tracker in self._trackers:
                tracker.start()
        for line in kept:
            if line["step"] == step:  # which TensorBoard has forgotten, too
                self._track(line)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the log; where an error ends the run, as far as it can be, with a line on it."""
        if error is None:
            self.close()
            return
        if isinstance(error, Interrupted):
            self._observer.note(str(error))
        if isinstance(error, PanodetrError):
            with suppress(PanodetrError):
                self.add(self._step, ended=str(error))
        with suppress(PanodetrError):
            self.close()

    def note(self, text: str) -> None:
        """Write a line of the log, once, however often the run is resumed."""
        if text not in self._noted:
            self.add(self._step, note=text)
            self._noted.add(text)
        self._observer.note(text)

    def batch(self, step: int, batch: Batch) -> None:
        """Draw the first ones."""
        if step <= DRAWN_BATCHES:
            picture = draw_batch(batch, self._spec)
            write_picture(self._folder.pictures / f"batch_{step}.png", picture)

    def stepped(self, step: int) -> None:
        """Keep the number."""
        self._step = step
        self._observer.stepped(step)

    def progress(self, line: Progress) -> None:
        """Write the line."""
        self.add(**asdict(line))
        self._observer.progress(line)

    def bad_step(self, step: int, image_ids: Sequence[int], figures: dict[str, float]) -> None:
        """Write the images down: one of them may be what is wrong."""
        shown = {n: value if np.isfinite(value) else str(value) for n, value in figures.items()}
        path = self._folder.bad_steps / f"{step:08}.json"
        paths = {sample.image_id: str(sample.path) for sample in self._data.samples}
        images = [{"image_id": i, "image": paths[i]} for i in image_ids]
        write_json(path, {"step": step, "losses": shown, "images": images})
        self.add(step, bad_step=str(path.relative_to(self._folder.path)))
        self._observer.bad_step(step, image_ids, figures)

    def validated(self, validation: Validation, model: Network) -> None:
        """Write the figures, and draw the curves and some of the predictions."""
        assert self._truth is not None
        self.add(validation.step, validation=scalars(validation.metrics))
        left_out = validation.left_out
        images = tuple(image for image in self._truth.images if image.image_id not in left_out)
        predictor = make_predictor(model, self._spec)
        picture = draw_validation(predictor, replace(self._truth, images=images))
        name = f"validation_{validation.step:08}.png"
        write_picture(self._folder.pictures / name, picture)
        self._plot()
        self._observer.validated(validation, model)

    def add(self, step: int, **what: object) -> None:
        """Add a line to the log, and points to the curves of its figures; raises as a new one."""
        line = {"step": step, **what}
        append_text(self._folder.log, json.dumps(line) + "\n")
        self._track(line)

    def close(self) -> None:
        """Write what is left, and draw the curves; raises as a new one does."""
        try:
            with self._one_line_errors():
                for tracker in self._trackers:
                    tracker.finish()
        finally:
            self._plot()

    def _plot(self) -> None:
        """Draw the curves, unless they are as they were."""
        if not self._plotted:
            plot_log(read_log(self._folder.log), self._folder.results)
        self._plotted = True

    def _track(self, line: Line) -> None:
        points = {
            f"{k}/{n}": v for k in ("losses", "validation") for n, v in line.get(k, {}).items()
        }
        points |= {f"rates/{name}": line[name] for name in RATES if name in line}
        if points:
            self._plotted = False
            with self._one_line_errors():
                for tracker in self._trackers:
                    tracker.log(points, line["step"])

    @contextmanager
    def _one_line_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            board = self._folder.board
            raise PanodetrError(f"cannot write {board}: {reason_of(error)}") from error
        except Exception as error:
            if not type(error).__module__.startswith("wandb"):
                raise
            raise PanodetrError(
                f"Weights & Biases failed: {reason_of(error)}; log in with `wandb login`, or go on "
                "without: --set wandb=false"
            ) from error


def draw_batch(batch: Batch, spec: ModelSpec) -> Image.Image:
    """Draw the first images of a batch, augmented and padded as they are, with their objects."""
    rule, targets = spec.preprocessing, batch.targets
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (rule.mean, rule.std))
    by_index = {category.index: category for category in spec.categories}
    drawn: list[Captioned] = []
    first = 0
    for number, count in enumerate(targets.counts[:IMAGES]):
        pixels = batch.pixels[number].cpu().numpy() * std + mean  # 3, H, W
        pixels = (pixels.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)  # H, W, 3
        real = np.ones(pixels.shape[:2], np.bool_)
        if batch.padding is not None:
            real = ~batch.padding[number].cpu().numpy()
        size = [real[0].sum(), real[:, 0].sum()] * 2  # width, height, width, height
        own = slice(first, first + count)
        picture = draw_truth(
            np.where(real[..., None], pixels, np.uint8(_PADDING)),
            [by_index[index] for index in targets.classes[own].tolist()],
            None if targets.index_map is None else targets.index_map[number].cpu().numpy(),
            cxcywh_to_xyxy(targets.boxes[own]).cpu().numpy() * np.array(size),
            spec.categories,
        )
        drawn.append((f"image {batch.image_ids[number]}: {count} to learn", picture))
        first += count
    return lay_out([drawn])


def draw_validation(predictor: Predictor, truth: GroundTruth, count: int = IMAGES) -> Image.Image:
    """Draw predictions for the first images of a data set, and the ground truth on their right.

    Raises:
        ImageError: an image cannot be read.
        DataError: an id map cannot be read.
    """
    images = truth.images[:count]
    paths = [source_of(image) for image in images]
    with_masks = predictor.spec.architecture.masks
    rows: list[list[Captioned]] = []
    results = predictor.segment(paths) if with_masks else predictor.detect(paths)
    for image, result in zip(images, results, strict=True):
        found = result.segments if isinstance(result, PanopticResult) else result.detections
        caption = f"{image.path.name}, predicted: {len(found)}"
        true = _draw_true(image, truth, result, with_masks=with_masks)
        rows.append([(caption, Image.fromarray(result.draw())), true])
    return lay_out(rows)


def _draw_true(
    image: TruthImage, truth: GroundTruth, result: ImageResult, *, with_masks: bool
) -> Captioned:
    """Draw what is true of an image, in the form that the model answers in."""
    with_masks = with_masks and bool(truth.segment_categories)
    if not with_masks and isinstance(image, Sample) and image.objects is not None:
        image_id, path, size = image.image_id, image.path, image.size
        image = InstanceImage(image_id=image_id, path=path, size=size, objects=image.objects)
    drawn = truth.segment_categories if with_masks else truth.object_categories
    every = (*truth.segment_categories, *truth.object_categories)
    objects = read_objects(image, {c.id: c.id for c in every}, with_masks=with_masks)
    target = view_target(objects, View(window=(0, 0, *image.size), size=image.size))
    by_id = {c.id: c for c in result.categories if c.id in {category.id for category in drawn}}
    kept = [place for place, number in enumerate(target.classes.tolist()) if number in by_id]
    places = None
    if with_masks and target.ids is not None:
        places = number_pixels(target.segment_ids[kept], target.ids)
    classes = [by_id[number] for number in target.classes[kept].tolist()]
    boxes = target.boxes[kept]
    picture = draw_truth(result.image, classes, places, boxes, result.categories)
    return f"ground truth: {len(kept)}", picture
