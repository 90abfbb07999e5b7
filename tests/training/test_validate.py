from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from panodetr.data.dataset import Dataset, name_categories
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.masks import panoptic_objects
from panodetr.data.samples import InstanceImage
from panodetr.errors import DataError
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.model.detr import Detr
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.log import BadStep, Observer, Progress, Recorder, read_log
from panodetr.training.pictures import draw_batch, draw_validation
from panodetr.training.step import read_steps
from panodetr.training.validate import Validation, choose_tasks, make_predictor, validate

from .conftest import SIDE


@pytest.fixture
def truth(discs: Dataset) -> GroundTruth:
    return GroundTruth.open(discs.folder, "train")


@pytest.fixture
def model(tiny_run: TrainConfig) -> Detr:
    torch.manual_seed(0)
    return Detr(tiny_run.spec.architecture)


def of(
    config: TrainConfig, model: Detr, truth: GroundTruth, accelerator: Accelerator
) -> tuple[Validation, list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    found = validate(
        model,
        config.spec,
        truth,
        step=3,
        accelerator=accelerator,
        progress=lambda done, images: seen.append((done, images)),
    )
    return found, seen


def as_objects(truth: GroundTruth) -> GroundTruth:
    """The discs of panoptic truth, one by one."""
    objects = [
        InstanceImage(
            image_id=image.image_id,
            path=image.path,
            size=image.size,
            objects=tuple(panoptic_objects(image.panoptic, read_ids(image.panoptic), {10})),
        )
        for image in truth.images
        if image.panoptic is not None
    ]
    data = Dataset(
        folder=truth.folder,
        split="",
        format="coco-instances",
        categories=name_categories(truth.object_categories),
        samples=tuple(objects),
        has_masks=True,
    )
    return GroundTruth.of_data(data)


def test_models_with_masks_are_measured_by_the_quality_of_things(
    tiny_run: TrainConfig, model: Detr, truth: GroundTruth, accelerator: Accelerator
) -> None:
    found, seen = of(tiny_run, model, truth, accelerator)
    assert choose_tasks(tiny_run.spec, truth) == ("boxes", "instances", "panoptic")
    assert found.measure == "thing PQ"
    assert found.score == found.metrics["pq_things"]
    assert list(found.figures) == ["thing PQ", "stuff PQ", "PQ", "box AP", "mask AP"]
    assert found.metrics["images"] == 4
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_models_without_masks_are_measured_by_box_ap(
    tiny_run: TrainConfig, truth: GroundTruth, accelerator: Accelerator
) -> None:
    shape = replace(tiny_run.spec.architecture, masks=False)
    config = replace(tiny_run, spec=replace(tiny_run.spec, architecture=shape))
    found, _ = of(config, Detr(shape), truth, accelerator)
    assert found.measure == "box AP"
    assert 0 <= found.score <= 1
    assert "pq" not in found.metrics


def test_masks_that_are_written_one_by_one_are_measured_by_the_quality_of_things(
    tiny_run: TrainConfig, truth: GroundTruth, accelerator: Accelerator
) -> None:
    shape = replace(tiny_run.spec.architecture, num_classes=1)
    things = tiny_run.spec.categories[:1]
    spec = replace(tiny_run.spec, architecture=shape, categories=things, threshold=0.0)
    torch.manual_seed(0)
    model = Detr(shape)
    found, seen = of(replace(tiny_run, spec=spec), model, as_objects(truth), accelerator)
    assert len(seen) == 4  # one run of the network an image
    assert list(found.figures) == ["thing PQ", "box AP", "mask AP"]
    assert found.measure == "thing PQ"
    assert not any(name.endswith("_stuff") for name in found.metrics)
    found, _ = of(
        replace(tiny_run, spec=replace(spec, architecture=replace(shape, masks=False))),
        Detr(replace(shape, masks=False)),
        as_objects(truth),
        accelerator,
    )
    assert list(found.figures) == ["box AP"]


def test_a_model_of_boxes_has_nothing_to_be_measured_by_where_all_is_stuff(
    tiny_run: TrainConfig, truth: GroundTruth
) -> None:
    shape = replace(tiny_run.spec.architecture, masks=False)
    stuff = replace(truth, object_categories=())
    with pytest.raises(DataError, match="has no objects to validate boxes with"):
        choose_tasks(replace(tiny_run.spec, architecture=shape), stuff)


def test_data_without_things_is_measured_by_all_it_has(
    tiny_run: TrainConfig, model: Detr, truth: GroundTruth, accelerator: Accelerator
) -> None:
    stuff = tuple(replace(c, is_thing=False) for c in tiny_run.spec.categories)
    config = replace(tiny_run, spec=replace(tiny_run.spec, categories=stuff))
    bare = replace(truth, segment_categories=stuff, object_categories=())
    found, _ = of(config, model, bare, accelerator)
    assert found.measure == "PQ"
    assert list(found.figures) == ["stuff PQ", "PQ"]


def test_batches_are_drawn_with_objects_and_padding(tiny_run: TrainConfig, discs: Dataset) -> None:
    (batch,) = next(read_steps(tiny_run, discs, 0, print))
    picture = draw_batch(batch, tiny_run.spec)
    bare = replace(batch, targets=replace(batch.targets, index_map=None))
    boxes = draw_batch(bare, tiny_run.spec)
    assert picture.dtype == np.uint8
    assert picture.shape == boxes.shape
    assert (picture != boxes).any()
    # Discs and background are grey; what is drawn over them has colour.
    assert np.ptp(picture.astype(int), axis=-1).max() > 80
    padding = torch.zeros(batch.pixels.shape[0], *batch.pixels.shape[2:], dtype=torch.bool)
    padding[0, :, -8:] = True  # lighter than a dark image
    assert (
        draw_batch(replace(bare, padding=padding), tiny_run.spec)[-20, 4 * 48 - 16] == 110
    ).all()


def test_predictions_are_drawn_beside_the_truth(
    tiny_run: TrainConfig, model: Detr, truth: GroundTruth
) -> None:
    sheets = {}
    for masks in (True, False):
        shape = replace(tiny_run.spec.architecture, masks=masks)
        torch.manual_seed(0)
        spec = replace(tiny_run.spec, architecture=shape)
        answering = make_predictor(model if masks else Detr(shape), spec, torch.device("cpu"))
        sheets[masks] = draw_validation(answering, truth)
        height, width = sheets[masks].shape[:2]
        right = sheets[masks][:, width // 2 + 4 :]
        assert height > 2 * width // 2
        assert np.ptp(right.astype(int), axis=-1).max() > 80
    assert (sheets[True] != sheets[False]).any()


def test_true_masks_are_drawn_whatever_they_are_written_in(
    tiny_run: TrainConfig, model: Detr, truth: GroundTruth
) -> None:
    predictor = make_predictor(model, tiny_run.spec, torch.device("cpu"))
    right: list[NDArray[np.bool_]] = []
    for one in (truth, as_objects(truth)):
        sheet = draw_validation(predictor, one)[:, -4 * SIDE :]
        right.append(np.ptp(sheet.astype(int), axis=-1) > 40)  # what is tinted
    # Discs are drawn alike in both, but for labels: background has one, too.
    assert right[1].mean() > 0.1
    assert (right[0] == right[1]).mean() > 0.98


def test_the_folder_keeps_what_is_told(
    tiny_run: TrainConfig, discs: Dataset, model: Detr, truth: GroundTruth, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    recorder = Recorder(folder, tiny_run.spec, discs, truth, torch.device("cpu"), Observer())
    (batch,) = next(read_steps(tiny_run, discs, 0, print))
    recorder.note("class head: not taken over")
    recorder.begin(0, 0, 6, 2)
    recorder.batch(1, batch)
    recorder.progress(
        Progress(
            step=1, losses={"total": 2.0}, learning_rate=0.1, gradient_norm=1.0,
            images_per_second=3.0,
        )
    )  # fmt: skip
    nan = float("nan")
    recorder.bad_step(
        BadStep(step=2, image_ids=batch.image_ids, losses={"total": nan}, gradient_norm=nan)
    )
    recorder.validated(
        Validation(step=2, score=0.5, measure="thing PQ", metrics={"pq_things": 0.5}), model
    )
    recorder.close()
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
