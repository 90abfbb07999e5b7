from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.table import Table
from tests.evaluation.conftest import box

from panodetr.checkpoints.published import find_published
from panodetr.cli.eval import (
    average_precision,
    panoptic_quality,
    per_class,
    plot,
)
from panodetr.data.formats import things
from panodetr.data.masks import encode_pixels
from panodetr.data.samples import InstanceImage
from panodetr.evaluation.average_precision import TWELVE, ObjectResult
from panodetr.evaluation.ground_truth import TASKS, GroundTruth
from panodetr.evaluation.metrics import Counts, Figures, Prediction
from panodetr.results.types import Category

SIZE = (40, 40)


@pytest.fixture
def truth() -> GroundTruth:
    """One image with one square cat, found but for a quarter."""
    objects = (box(1, 1, (0, 0, 20, 20)),)
    cat = InstanceImage(image_id=1, path=Path("1.png"), size=SIZE, objects=objects)
    return GroundTruth(
        folder=Path(),
        images=(cat,),
        segment_categories=(
            Category(index=0, id=1, name="cat [wild]", is_thing=True, color=(0, 0, 0)),
            Category(index=1, id=2, name="sky", is_thing=False, color=(0, 0, 0)),
        ),
        object_categories=things({1: "cat [wild]", 3: "dog"}),
        has_masks=True,
    )


@pytest.fixture
def figures(truth: GroundTruth) -> Figures:
    counts = Counts(truth, TASKS)
    mask = np.zeros(SIZE, np.bool_)
    mask[:20, :15] = True
    found: ObjectResult = {"image_id": 1, "category_id": 1, "score": 0.5}
    prediction = Prediction(
        boxes=[{**found, "bbox": [0, 0, 15, 20]}],
        instances=[{**found, "segmentation": encode_pixels(mask)}],
    )
    counts.update(truth.images[0], prediction)
    return counts.compute()


def rows(table: Table) -> dict[str, list[str]]:
    """Each row's cells, by the first one; the headings under "heading"."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    headings = [str(column.header) for column in table.columns]
    cells = {row[0]: list(row[1:]) for row in zip(*columns, strict=True)}
    return cells | {"heading": headings[1:]}


def test_twelve_rows_in_percent_beside_the_published_figures(figures: Figures) -> None:
    shown = rows(average_precision(figures, {}))
    assert shown.pop("heading") == ["boxes", "instances"]
    assert len(shown) == len(TWELVE) == 12
    assert shown["AP"] == ["60.0", "60.0"]  # six of ten overlaps, 0.5 to 0.75
    assert shown["AP75"] == ["100.0", "100.0"]
    assert shown["AP large"] == ["-", "-"]
    known = find_published("facebook/detr-resnet-101-panoptic")
    detector = find_published("facebook/detr-resnet-50")
    assert known is not None
    assert detector is not None
    assert figures.panoptic is not None
    shown = rows(average_precision(figures, known.figures))
    assert shown["heading"] == ["boxes", "published", "instances", "published"]
    assert shown["AP"] == ["60.0", "40.1", "60.0", "33.0"]
    quality = rows(panoptic_quality(figures.panoptic, known.figures))
    assert quality["heading"][4:] == ["published PQ", "published SQ", "published RQ"]
    assert quality["all"][4:] == ["45.1", "79.9", "55.5"]
    assert quality["stuff"][4:] == ["37.0", "78.5", "46.0"]
    # a detector's are of boxes alone
    assert rows(average_precision(figures, detector.figures))["AP"] == ["60.0", "42.0", "60.0"]
    assert len(rows(panoptic_quality(figures.panoptic, detector.figures))["all"]) == 4


def test_classes_that_occur_have_a_row(figures: Figures, truth: GroundTruth) -> None:
    shown = rows(per_class(figures))
    assert shown.pop("heading") == ["objects", "box AP", "box AP50", "mask AP", "mask AP50"]
    assert shown == {"cat [wild]": ["1", "60.0", "100.0", "60.0", "100.0"]}


def test_each_task_has_its_plots_where_there_are_objects(
    figures: Figures, truth: GroundTruth, tmp_path: Path
) -> None:
    paths = plot(tmp_path, figures)
    names = ["per_class", "precision_recall_boxes", "precision_recall_instances"]
    assert [path.stem for path in paths] == names
    for path in paths:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10  # not blank
    only = replace(figures, boxes=None, instances=None)
    for other in (only, Counts(truth, TASKS).compute()):
        assert [path.stem for path in plot(tmp_path, other)] == ["per_class"]
