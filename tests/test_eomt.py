"""Everything that runs a DETR runs an EoMT: predictions, tiles, evaluation, the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.process import python

import panodetr
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.predict import Predictor
from panodetr.results.masks import Frame, Masks, NumpyMasks
from panodetr.results.panoptic import merge_weighted
from panodetr.results.types import Category
from panodetr.runtimes.torch import TorchMasks


@pytest.fixture(scope="session")
def model(eomt_folder: Path) -> Predictor:
    return panodetr.load(eomt_folder)


def image(height: int = 60, width: int = 84, seed: int = 0) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (-(-height // 12), -(-width // 12), 3), np.uint8)
    return coarse.repeat(12, 0).repeat(12, 1)[:height, :width]


def test_segments_are_where_masks_are(model: Predictor) -> None:
    result = model.segment(image())
    assert len(result.segments) > 1
    assert result.segment_ids.shape == (60, 84)
    assert set(np.unique(result.segment_ids)) - {0} == {s.id for s in result.segments}
    stuff = [s.label for s in result.segments if not s.is_thing]
    assert len(stuff) == len(set(stuff))
    for task in ("instances", "semantic"):
        assert model.segment(image(), task=task).segments


def test_boxes_are_those_of_the_masks(model: Predictor) -> None:
    found = model.detect(image(), threshold=0.2, masks=True)
    assert found.detections
    for detection in found.detections:
        assert detection.mask is not None
        rows, columns = (np.flatnonzero(detection.mask.any(axis)) for axis in (1, 0))
        tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(np.array(detection.box) - tight).max() <= 2  # a pixel of the model's input
    alone = model.detect(image(), threshold=0.2)
    assert [d.box for d in alone.detections] == [d.box for d in found.detections]


def test_a_list_gives_what_its_images_give_alone(model: Predictor) -> None:
    several = [image(), image(84, 60, 1), image(64, 64, 2), image(60, 84, 3)]
    for one, together in zip(several, model.segment(several), strict=True):
        assert np.array_equal(model.segment(one).segment_ids, together.segment_ids)


def test_large_images_are_seen_in_tiles(model: Predictor) -> None:
    rule = replace(model.spec.preprocessing, tile=64, tile_overlap=16)
    tiled = model.with_rule(rule)
    large = image(130, 100)
    assert tiled.segment(large).segment_ids.shape == (130, 100)
    boxes = np.array([d.box for d in tiled.detect(large, threshold=0.2).detections])
    assert (boxes >= -1e-3).all()
    assert (boxes[:, 2] <= 100.01).all()


def test_any_shape_of_image_can_be_seen_without_a_square(model: Predictor) -> None:
    rule = replace(model.spec.preprocessing, multiple=16, short_side=48, long_side=None)
    result = model.with_rule(rule).segment(image(50, 140))
    assert result.segment_ids.shape == (50, 140)


CATEGORIES = [
    Category(index=n, id=n, name=f"{n}", is_thing=n < 2, color=(0, 0, 0)) for n in range(3)
]


def on_torch(values: NDArray[np.float32]) -> TorchMasks:
    return TorchMasks(torch.from_numpy(values))


@pytest.mark.parametrize("kind", [NumpyMasks, on_torch])
def test_a_segment_is_what_it_wins_of_where_it_is_likely(
    kind: Callable[[NDArray[np.float32]], Masks],
) -> None:
    values = np.full((4, 8, 8), -5, np.float32)
    values[0, :, :4] = 5  # a thing on the left half
    values[1, :, :5] = 3  # hidden behind it but for a column
    values[2, :4, 5:] = 2  # stuff
    values[3, 4:, 5:] = 1  # more of the same
    scores = np.array([0.9, 0.9, 0.8, 0.8], np.float32)
    given = [CATEGORIES[0], CATEGORIES[1], CATEGORIES[2], CATEGORIES[2]]
    masks = kind(values).on(Frame((8, 8), (8, 8)))
    ids, segments = merge_weighted(masks, scores, given, 0.8)
    assert [(s.label, round(s.score, 1)) for s in segments] == [("0", 0.9), ("2", 0.8)]
    assert (ids[:, :4] == 1).all()
    assert (ids[:, 4] == 0).all()
    assert (ids[:, 5:] == 2).all()
    whole, kept = merge_weighted(masks, scores, given, 0.1)
    assert len(kept) == 3
    assert (whole[:, 4] == 2).all()
    sure, _ = merge_weighted(masks, scores, given, 0.8, mask_threshold=0.8)
    assert (sure[4:, 5:] == 0).all()  # the sigmoid of 1 is 0.73
    assert np.array_equal(sure[:4], ids[:4])
    part = masks.on(Frame((8, 4), (16, 8), (8, 8)))  # the image is the left half of the canvas
    ids, segments = merge_weighted(part, scores, given, 0.8)
    assert (ids == 1).all()
    assert len(segments) == 1


def test_torch_and_numpy_find_the_same_winners() -> None:
    values = np.random.default_rng(0).normal(size=(5, 16, 16)).astype(np.float32)
    scores = np.linspace(0.5, 0.9, 5, dtype=np.float32)
    for canvas, size, target in (((64, 64), (48, 64), (100, 133)), ((64, 64), (64, 64), (30, 30))):
        frame = Frame(size, target, canvas)
        a, b = (kind(values).on(frame).compete(scores) for kind in (NumpyMasks, on_torch))
        assert (a.winner == b.winner).mean() > 0.999
        assert (a.likely == b.likely).mean() > 0.999
        assert np.abs(a.areas - b.areas).max() <= 3


def test_average_precision_and_panoptic_quality_are_counted(
    model: Predictor, shared_data: Path
) -> None:
    truth = GroundTruth.open(shared_data / "nuclei", "val")
    truth = replace(truth, images=truth.images[:2])
    named = {c.id: c for c in truth.segment_categories}
    own = tuple(
        replace(c, index=n, is_thing=named[c.id].is_thing)
        for n, c in enumerate(truth.segment_categories)
    )
    known = Predictor(replace(model.spec, categories=own), model.runtime)
    counts = evaluate(
        known, truth, ("boxes", "instances", "panoptic"), progress=lambda done, images: None
    )
    figures = counts.compute()
    assert figures.panoptic is not None
    assert figures.boxes is not None
    assert figures.instances is not None


def run(*arguments: str | Path) -> str:
    done = python("-m", "panodetr", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_takes_it(eomt_folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "image.png"
    Image.fromarray(image()).save(picture)
    written = run("convert", eomt_folder, tmp_path / "hf", "--to", "huggingface", "--json")
    assert json.loads(written)["format"] == "huggingface"
    run("segment", picture, "--model", tmp_path / "hf", "--out", tmp_path / "out")
    assert list((tmp_path / "out").iterdir())
