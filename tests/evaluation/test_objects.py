from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from panodetr.data.formats.coco_instances import InstanceData
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.masks import panoptic_objects
from panodetr.data.samples import GroundTruthSegment, InstanceCategory, InstanceImage, ObjectTruth
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.ground_truth import TASKS, GroundTruth
from panodetr.evaluation.panoptic_quality import PanopticQuality, object_segments

from .conftest import Annotator


def box(number: int, category_id: int, edges: tuple[int, int, int, int], crowd: int) -> ObjectTruth:
    x0, y0, x1, y1 = edges
    return {
        "id": number,
        "image_id": 1,
        "category_id": category_id,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": crowd,
        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
    }


def image(*objects: ObjectTruth) -> InstanceImage:
    return InstanceImage(image_id=1, path=Path("1.png"), size=(20, 20), objects=objects)


def as_objects(truth: GroundTruth) -> GroundTruth:
    """The things of a panoptic truth, one by one."""
    things = {category.id for category in truth.object_categories}
    images = [
        InstanceImage(
            image_id=one.image_id,
            path=one.path,
            size=one.size,
            objects=tuple(panoptic_objects(one.panoptic, read_ids(one.panoptic), things)),
        )
        for one in truth.images
        if one.panoptic is not None
    ]
    data = InstanceData(
        folder=truth.folder,
        categories=truth.object_categories,
        images=tuple(images),
        has_masks=True,
    )
    return GroundTruth.of_instances(data)


def test_objects_are_segments_the_smaller_on_top_and_crowds_below() -> None:
    ids, segments = object_segments(
        image(
            box(1, 7, (0, 0, 10, 10), 0),
            box(2, 7, (5, 5, 9, 9), 0),
            box(3, 8, (8, 8, 18, 10), 1),
            box(4, 8, (8, 0, 18, 2), 1),
        )
    )
    assert segments == [
        GroundTruthSegment(id=1, category_id=7, area=84, is_crowd=False),
        GroundTruthSegment(id=2, category_id=7, area=16, is_crowd=False),
        GroundTruthSegment(id=3, category_id=8, area=32, is_crowd=True),
    ]
    assert (ids[0, 0], ids[6, 6], ids[9, 12], ids[1, 12]) == (1, 2, 3, 3)
    assert ids[19, 19] == 4  # nothing, and not void


def test_an_object_that_is_covered_whole_cannot_be_missed() -> None:
    _, segments = object_segments(image(box(1, 7, (0, 0, 4, 4), 0), box(2, 7, (0, 0, 4, 4), 0)))
    assert len(segments) == 1


def test_what_is_found_where_nothing_is_counts_as_false(nuclei: GroundTruth) -> None:
    ids, segments = object_segments(image(box(1, 1, (0, 0, 4, 4), 0)))
    found = np.zeros((20, 20), np.int32)
    found[:4, :4], found[10:14, 10:14] = 1, 2
    quality = PanopticQuality(nuclei.segment_categories)
    quality.update(
        ids,
        segments,
        found,
        [GroundTruthSegment(id=n, category_id=1, area=16, is_crowd=False) for n in (1, 2)],
    )
    counted = quality.compute().per_class[0]
    assert (counted.tp, counted.fp, counted.fn) == (1, 1, 0)


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_things_have_the_same_quality_whether_written_in_a_map_or_one_by_one(
    nuclei: GroundTruth, shift: int
) -> None:
    model = Annotator(nuclei, shift=shift)
    truth = as_objects(nuclei)
    assert truth.tasks() == TASKS
    # The model also finds background, which such truth says nothing of.
    figures = evaluate(model, truth, TASKS).counts.compute()
    expected = evaluate(model, nuclei, TASKS).counts.compute()
    assert figures.panoptic is not None
    assert expected.panoptic is not None
    assert figures.panoptic.things == expected.panoptic.things
    assert figures.panoptic.stuff.classes == 0
    assert figures.instances is not None
    assert expected.instances is not None
    assert figures.instances.ap == expected.instances.ap


def test_objects_without_masks_are_no_segments(nuclei: GroundTruth) -> None:
    bare = box(1, 1, (0, 0, 4, 4), 0)
    del bare["segmentation"]
    data = InstanceData(
        folder=nuclei.folder,
        categories=(InstanceCategory(id=1, name="nucleus"),),
        images=(image(bare),),
        has_masks=False,
    )
    assert GroundTruth.of_instances(data).tasks() == ("boxes",)
