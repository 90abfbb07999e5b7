from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from panodetr.data.dataset import Dataset
from panodetr.data.formats import things
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.masks import panoptic_objects
from panodetr.data.samples import InstanceImage, Sample
from panodetr.errors import DataError
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.model.detr import Detr
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.log import Progress, read_log
from panodetr.training.recorder import Recorder, draw_batch, draw_validation
from panodetr.training.step import collate_step, read_steps
from panodetr.training.validate import Validation, choose_tasks, make_predictor, validate

from .conftest import Recording


@pytest.fixture
def truth(discs: Dataset) -> GroundTruth:
    return GroundTruth.open(discs.folder, "train")


@pytest.fixture
def model(tiny_run: TrainConfig) -> Detr:
    torch.manual_seed(0)
    return Detr(tiny_run.spec.architecture)


def of(config: TrainConfig, truth: GroundTruth, accelerator: Accelerator) -> Validation:
    torch.manual_seed(0)
    model, seen = Detr(config.spec.architecture), list[tuple[int, int]]()
    found = validate(
        model, config.spec, truth, step=3, accelerator=accelerator,
        progress=lambda done, images: seen.append((done, images)),
    )  # fmt: skip
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]  # one run of the network an image
    return found


def as_objects(truth: GroundTruth) -> GroundTruth:
    """The discs of panoptic truth, one by one."""
    objects = [
        InstanceImage(
            image_id=image.image_id,
            path=image.path,
            size=image.size,
            objects=tuple(panoptic_objects(image, read_ids(image), {10})),
        )
        for image in truth.images
        if isinstance(image, Sample)
    ]
    data = Dataset(
        folder=truth.folder,
        split="",
        format="coco-instances",
        categories=things({c.id: c.name for c in truth.object_categories}),
        samples=tuple(objects),
        has_masks=True,
    )
    return GroundTruth.of_data(data)


def without_masks(config: TrainConfig) -> TrainConfig:
    shape = replace(config.spec.architecture, masks=False)
    return replace(config, spec=replace(config.spec, architecture=shape))


def test_models_are_measured_by_all_that_they_and_the_ground_truth_know(
    tiny_run: TrainConfig, truth: GroundTruth, accelerator: Accelerator
) -> None:
    found = of(tiny_run, truth, accelerator)
    assert choose_tasks(tiny_run.spec, truth) == ("boxes", "instances", "panoptic")
    assert found.measure == "thing PQ"
    assert found.score == found.metrics["pq_things"]
    assert list(found.figures) == ["thing PQ", "stuff PQ", "PQ", "box AP", "mask AP"]
    assert found.metrics["images"] == 4
    boxes = without_masks(tiny_run)
    found = of(boxes, truth, accelerator)
    assert found.measure == "box AP"
    assert 0 <= found.score <= 1
    assert "pq" not in found.metrics
    with pytest.raises(DataError, match="has no objects to validate boxes with"):
        choose_tasks(boxes.spec, replace(truth, object_categories=()))  # all is stuff

    stuff = tuple(replace(c, is_thing=False) for c in tiny_run.spec.categories)
    config = replace(tiny_run, spec=replace(tiny_run.spec, categories=stuff))
    bare = replace(truth, segment_categories=stuff, object_categories=())
    found = of(config, bare, accelerator)
    assert (found.measure, list(found.figures)) == ("PQ", ["stuff PQ", "PQ"])

    shape = replace(tiny_run.spec.architecture, num_classes=1)
    things = tiny_run.spec.categories[:1]
    spec = replace(tiny_run.spec, architecture=shape, categories=things, threshold=0.0)
    config, objects = replace(tiny_run, spec=spec), as_objects(truth)
    found = of(config, objects, accelerator)
    assert (found.measure, list(found.figures)) == ("thing PQ", ["thing PQ", "box AP", "mask AP"])
    assert not any(name.endswith("_stuff") for name in found.metrics)
    assert list(of(without_masks(config), objects, accelerator).figures) == ["box AP"]


def test_batches_are_drawn_with_objects_and_padding(tiny_run: TrainConfig, discs: Dataset) -> None:
    (batch,) = collate_step(tiny_run, discs, next(read_steps(tiny_run, discs)))
    picture = np.asarray(draw_batch(batch, tiny_run.spec))
    bare = replace(batch, targets=replace(batch.targets, index_map=None))
    boxes = np.asarray(draw_batch(bare, tiny_run.spec))
    assert picture.dtype == np.uint8
    assert picture.shape == boxes.shape
    assert (picture != boxes).any()
    # Discs and background are grey; what is drawn over them has colour.
    assert np.ptp(picture.astype(int), axis=-1).max() > 80
    padding = torch.zeros(batch.pixels.shape[0], *batch.pixels.shape[2:], dtype=torch.bool)
    padding[0, :, -8:] = True  # lighter than a dark image
    padded = np.asarray(draw_batch(replace(bare, padding=padding), tiny_run.spec))
    assert (padded[-20, 4 * 48 - 16] == 110).all()


def test_predictions_are_drawn_beside_the_truth_whatever_that_is_written_in(
    tiny_run: TrainConfig, truth: GroundTruth
) -> None:
    right: list[NDArray[np.bool_]] = []
    for config in (tiny_run, without_masks(tiny_run)):
        torch.manual_seed(0)
        model = Detr(config.spec.architecture)
        predictor = make_predictor(model, config.spec)
        for one in (truth, as_objects(truth)):
            sheet = np.asarray(draw_validation(predictor, one))
            height, width = sheet.shape[:2]
            assert height > width
            color = np.ptp(sheet[:, width // 2 + 4 :].astype(int), axis=-1)
            assert color.max() > 80
            right.append(color > 40)  # what is tinted
    masks, objects, boxes, same_boxes = right
    # Discs are drawn alike in both, but for labels: background has one, too.
    assert objects.mean() > 0.1
    assert (masks == objects).mean() > 0.98
    assert (boxes != masks).any()
    assert (boxes == same_boxes).mean() > 0.98


def test_the_folder_keeps_what_is_told(
    tiny_run: TrainConfig, discs: Dataset, model: Detr, truth: GroundTruth, tmp_path: Path
) -> None:
    folder, told = RunFolder(tmp_path / "run"), Recording()
    recorder = Recorder(folder, tiny_run, discs, truth, told, step=0, validated=0)
    (batch,) = collate_step(tiny_run, discs, next(read_steps(tiny_run, discs)))
    recorder.note("class head: not taken over")
    recorder.begin(0, 6, 2)
    recorder.batch(1, batch)
    recorder.progress(
        Progress(
            step=1, losses={"total": 2.0}, learning_rate=0.1, gradient_norm=1.0,
            images_per_second=3.0,
        )
    )  # fmt: skip
    nan = float("nan")
    recorder.bad_step(2, batch.image_ids, {"total": nan, "gradient_norm": nan})
    recorder.validated(
        Validation(step=2, score=0.5, measure="thing PQ", metrics={"pq_things": 0.5}), model
    )
    recorder.__exit__(None, None, None)
    lines = read_log(folder.log)
    assert [sorted(line)[0] for line in lines] == ["note", "gradient_norm", "bad_step", "step"]
    assert lines[3]["validation"] == {"pq_things": 0.5}
    bad = (folder.path / lines[2]["bad_step"]).read_text()
    names = {sample.image_id: sample.path.name for sample in discs.samples}
    assert all(names[image_id] in bad for image_id in batch.image_ids)
    assert '"nan"' in bad
    assert {path.name for path in folder.pictures.iterdir()} == {
        "batch_1.png",
        "validation_00000002.png",
    }
    assert folder.results.exists()
    assert list(folder.board.iterdir())
