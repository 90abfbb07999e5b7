"""Each format is read back by the library of its field."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from roifile import ImagejRoi
from shapely.geometry import shape

from panodetr.errors import UsageError
from panodetr.results import interchange
from panodetr.results.masks import Frame
from panodetr.results.regions import crop, measure
from panodetr.results.result import DetectionResult, PanopticResult
from panodetr.results.types import Category, CoarseMask, Detection

IDS = np.array(
    [
        [1, 1, 1, 0, 2, 2],
        [1, 0, 1, 0, 2, 2],
        [1, 1, 1, 0, 0, 0],
        [3, 3, 3, 3, 0, 2],
    ],
    np.int32,
)
SIZE = (40, 60)
MakeResult = Callable[..., PanopticResult]


@pytest.fixture
def result(make_result: MakeResult) -> PanopticResult:
    """Two cells, one with a hole and one of two parts, and ground."""
    return make_result(IDS, Path("folder/a.tif"))


@pytest.fixture
def detections() -> DetectionResult:
    """Two objects whose masks overlap, and one without a pixel."""

    def found(score: float, box: tuple[float, float, float, float], value: float) -> Detection:
        x0, y0, x1, y1 = (round(side) for side in box)
        logits = np.full(SIZE, -1, np.float32)
        logits[y0:y1, x0:x1] = value
        mask = CoarseMask(
            logits=logits, frame=Frame(SIZE, SIZE), tile=(0, 0, *SIZE), image_size=SIZE
        )
        return Detection(label="cell", category_id=7, score=score, box=box, coarse_mask=mask)

    return DetectionResult(
        detections=(
            found(0.9, (10.2, 5.1, 30.0, 25.0), 1),
            found(0.8, (20.0, 10.0, 50.0, 35.0), 1),
            found(0.7, (1.0, 1.0, 5.0, 5.0), -1),
        ),
        image=np.full((*SIZE, 3), 90, np.uint8),
        source=None,
        categories=(Category(index=0, id=7, name="cell", is_thing=True, color=(220, 20, 60)),),
    )


def without_masks(result: DetectionResult) -> DetectionResult:
    boxes = [
        Detection(label=d.label, category_id=d.category_id, score=d.score, box=d.box)
        for d in result.detections
    ]
    return DetectionResult(
        detections=tuple(boxes),
        image=result.image,
        source=result.source,
        categories=result.categories,
    )


def test_masks_of_segments_and_objects(
    result: PanopticResult, detections: DetectionResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    enlarge, made = CoarseMask.tile_pixels, list[CoarseMask]()

    def counted(mask: CoarseMask) -> NDArray[np.bool_]:
        made.append(mask)
        return enlarge(mask)

    monkeypatch.setattr(CoarseMask, "tile_pixels", counted)
    assert np.array_equal(result.masks, [IDS == 1, IDS == 2, IDS == 3])
    assert np.array_equal(result.segments[1].mask, IDS == 2)
    masks = [mask for found in detections.detections if (mask := found.mask) is not None]
    assert np.array_equal(detections.masks, masks[:2])
    assert without_masks(detections).masks.shape == (0, *SIZE)
    for give in (detections.to_coco, detections.to_geojson, detections.to_dict, detections.draw):
        give()
    assert len(made) == 3  # once each


def test_pycocotools_reads_the_objects_of_many_images(
    result: PanopticResult, detections: DetectionResult, tmp_path: Path
) -> None:
    coco = interchange.CocoInstances()
    coco.add(result)
    coco.add(detections)
    coco.add(without_masks(detections))
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(coco.document()))
    read = COCO(path)
    names = [image["file_name"] for image in read.loadImgs([1, 2, 3])]
    assert names == ["a.tif", "image-2", "image-3"]
    first, second, third = (read.loadAnns(read.getAnnIds(i)) for i in (1, 2, 3))
    assert np.array_equal([read.annToMask(a) for a in first], [IDS == 1, IDS == 2])
    areas = [coco_mask.area(a["segmentation"]) for a in first]  # pyright: ignore[reportArgumentType]
    assert areas == [8, 5] == [a["area"] for a in first]
    assert len(second) == 2
    assert second[0]["bbox"] == [10.2, 5.1, 19.8, 19.9]
    assert len(third) == 3
    assert "segmentation" not in third[0]


def test_shapely_reads_polygons_with_holes(
    result: PanopticResult, detections: DetectionResult
) -> None:
    found = result.to_geojson(pixel_size=0.5)
    features = json.loads(json.dumps(found))["features"]
    shapes = [shape(feature["geometry"]) for feature in features]
    assert all(area.is_valid for area in shapes)
    assert [area.area for area in shapes] == [8, 5, 4]
    assert [area.geom_type for area in shapes] == ["Polygon", "MultiPolygon", "Polygon"]
    properties = features[0]["properties"]
    assert properties["objectType"] == "detection"
    assert properties["classification"] == {"name": "cell", "color": [220, 20, 60]}
    assert properties["measurements"]["area_um2"] == 2
    assert features[2]["properties"]["objectType"] == "annotation"
    boxes = without_masks(detections).to_geojson()["features"]
    assert isinstance(boxes, list)
    assert shape(boxes[0]["geometry"]).bounds == (10, 5, 30, 25)


def test_tifffile_reads_label_maps(
    result: PanopticResult, detections: DetectionResult, make_result: MakeResult
) -> None:
    read = tifffile.imread(io.BytesIO(interchange.label_tiff(result)))
    assert read.dtype == np.uint16
    assert np.array_equal(read, IDS)
    many = np.arange(1, 70_001, dtype=np.int32).reshape(200, 350)
    read = tifffile.imread(io.BytesIO(interchange.label_tiff(make_result(many))))
    assert np.array_equal(read, many)
    labels = interchange.label_map(detections)
    assert [(labels == number).sum() for number in (1, 2)] == [400, 600]  # the better is on top
    with pytest.raises(UsageError, match="needs masks"):
        interchange.label_map(without_masks(detections))


def test_roifile_reads_a_polygon_for_each_component(result: PanopticResult) -> None:
    rois = [ImagejRoi.frombytes(roi) for _, roi in interchange.imagej_rois(result)]
    assert [roi.name for roi in rois] == ["1-cell", "2-cell", "2-cell-2", "3-ground"]
    points = np.asarray(rois[0].coordinates())
    assert points.min(axis=0).tolist() == [0, 0]
    assert points.max(axis=0).tolist() == [3, 3]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 301)])
def test_label_studio_reads_its_brush(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for mask in (rng.random(size) > 0.5, np.ones(size, bool), np.zeros(size, bool)):
        read = np.asarray(decode_rle(list(interchange.brush_rle(mask)))).reshape(*size, 4)
        assert np.array_equal(read, np.repeat(mask[..., None] * 255, 4, axis=2))


def test_label_studio_tasks(result: PanopticResult, detections: DetectionResult) -> None:
    task = interchange.to_label_studio(result, model="nuclei")
    assert task["data"] == {"image": "a.tif"}
    predictions = task["predictions"]
    assert isinstance(predictions, list)
    assert predictions[0]["model_version"] == "nuclei"
    brush = predictions[0]["result"][0]
    assert brush["value"]["brushlabels"] == ["cell"]
    task = interchange.to_label_studio(without_masks(detections), model="nuclei")
    box = task["predictions"][0]["result"][0]  # pyright: ignore[reportIndexIssue]
    assert box["value"]["rectanglelabels"] == ["cell"]
    assert box["value"]["x"] == pytest.approx(17)
    assert box["value"]["height"] == pytest.approx(49.75)


def test_a_table_measures_each_region(result: PanopticResult) -> None:
    rows = measure(result, pixel_size=2)
    ring = rows[0]
    assert (ring["image"], ring["id"], ring["class"], ring["area"]) == ("a.tif", 1, "cell", 8)
    assert (ring["centroid_x"], ring["centroid_y"]) == (1.5, 1.5)
    assert ring["equivalent_diameter"] == pytest.approx(2 * np.sqrt(8 / np.pi))
    assert ring["mean_red"] == 128
    assert ring["area_um2"] == 32
    read = list(csv.DictReader(io.StringIO(interchange.to_csv(rows))))
    assert [row["area"] for row in read] == ["8", "5", "4"]
    assert interchange.to_csv([]) == interchange.to_csv(measure(result)).splitlines()[0] + "\n"
    frame = result.to_pandas()
    assert frame["area"].tolist() == [8, 5, 4]


def test_crops_are_transparent_beside_their_region(
    result: PanopticResult, detections: DetectionResult
) -> None:
    assert [pixels.shape for pixels in result.crops()] == [(3, 3, 4), (4, 2, 4), (1, 4, 4)]
    assert result.crops()[0][1, 1].tolist() == [128, 128, 128, 0]
    assert [region.id for region, _ in crop(detections)] == [1, 2]


def test_supervision_reads_both_forms(
    result: PanopticResult, detections: DetectionResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervision = pytest.importorskip("supervision")
    for found in (result, detections, without_masks(detections)):
        own = found.to_supervision()
        monkeypatch.setitem(sys.modules, "supervision", None)
        theirs = supervision.Detections.from_transformers(found.to_supervision())
        monkeypatch.undo()
        assert np.array_equal(own.xyxy, theirs.xyxy)
        assert np.array_equal(own.class_id, theirs.class_id)
        assert np.array_equal(own.confidence, theirs.confidence)
        assert (own.mask is None) == (theirs.mask is None)
        if own.mask is not None:
            assert np.array_equal(own.mask, theirs.mask)


def test_a_notebook_shows_the_overlay(result: PanopticResult) -> None:
    with Image.open(io.BytesIO(result._repr_png_())) as picture:  # pyright: ignore[reportPrivateUsage]
        assert picture.format == "PNG"
