"""Published cases of AP and PQ: from the tests and docs of torchmetrics and faster-coco-eval.

pycocotools has no such cases of its own; it is run beside each of these for AP. The larger files of
cocoapi, of which faster-coco-eval publishes all figures, were compared by hand: docs/tests.md.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panodetr.data.formats import things
from panodetr.data.masks import encode_pixels
from panodetr.data.samples import GroundTruthSegment
from panodetr.evaluation.average_precision import TWELVE, AveragePrecision, Overlap
from panodetr.evaluation.panoptic_quality import PanopticQuality
from panodetr.results.types import Category

pytestmark = pytest.mark.parity

SIZE = (640, 640)
Scene = list[tuple[list[list[Any]], list[list[Any]]]]
"""Of each image the objects, class and box x0, y0, x1, y1, and the predictions, with a score."""


def corners(box: list[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}


def pixels(rows: list[str]) -> dict[str, Any]:
    mask = np.array([[pixel == "#" for pixel in row] for row in rows])
    return {"segmentation": encode_pixels(mask), "area": int(mask.sum())}


def average_precision(scene: Scene, kind: Overlap, size: tuple[int, int] = SIZE) -> list[float]:
    """Count with ours and with pycocotools, which must agree to the last bit; -1: no such truth."""
    shape = corners if kind == "bbox" else pixels
    classes = sorted({entry[0] for image in scene for part in image for entry in part})
    truths: list[list[Any]] = []
    results: list[list[Any]] = []
    for number, (objects, found) in enumerate(scene, start=1):
        common = {"image_id": number, "iscrowd": 0}
        truths.append(
            [
                {**common, "category_id": c, "id": 100 * number + place, "bbox": [0, 0, 1, 1]}
                | shape(given[0] if kind == "segm" else given)
                for place, (c, *given) in enumerate(objects)
            ]
        )
        results.append(
            [
                {"image_id": number, "category_id": c, "score": score}
                | shape(given[0] if kind == "segm" else given)
                for c, score, *given in found
            ]
        )
    for result in (result for own in results for result in own):
        del result["area"]
    images = [{"id": n, "height": size[0], "width": size[1]} for n in range(1, len(scene) + 1)]
    counter = AveragePrecision(things({c: str(c) for c in classes}), kind)
    for image, objects, found in zip(images, truths, results, strict=True):
        counter.update(image["id"], size, objects, found)
    figures = counter.compute()
    ours = [-1.0 if (value := getattr(figures, name)) is None else value for name in TWELVE]
    if any(results):
        with contextlib.redirect_stdout(io.StringIO()):
            truth: Any = COCO()
            truth.dataset = {
                "images": images,
                "annotations": [one for own in truths for one in own],
                "categories": [{"id": c, "name": str(c)} for c in classes],
            }
            truth.createIndex()
            reference = COCOeval(truth, truth.loadRes([r for own in results for r in own]), kind)
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
        assert ours == reference.stats.tolist()
    return ours


SHIFTED: Scene = [([[0, 214, 41, 562, 285]], [[0, 0.536, 258, 41, 606, 285]])]
OF_FOUR_IMAGES: Scene = [
    ([[4, 214.15, 41.29, 562.41, 285.07]], [[4, 0.236, 258.15, 41.29, 606.41, 285.07]]),
    (
        [[2, 13.0, 22.75, 548.98, 632.42], [2, 1.66, 3.32, 270.26, 275.23]],
        [[3, 0.318, 61.0, 22.75, 565.0, 632.42], [2, 0.726, 12.66, 3.32, 281.26, 275.23]],
    ),
    (
        [
            [4, 61.87, 276.25, 358.29, 379.43], [1, 2.75, 3.66, 162.15, 316.06],
            [0, 295.55, 93.96, 313.97, 152.79], [0, 326.94, 97.05, 340.49, 122.98],
            [0, 356.62, 95.47, 372.33, 147.55], [0, 462.08, 105.09, 493.74, 146.99],
            [0, 277.11, 103.84, 292.44, 150.72],
        ],
        [
            [4, 0.546, 87.87, 276.25, 384.29, 379.43], [1, 0.3, 0.0, 3.66, 142.15, 316.06],
            [0, 0.407, 296.55, 93.96, 314.97, 152.79], [0, 0.611, 328.94, 97.05, 342.49, 122.98],
            [0, 0.335, 356.62, 95.47, 372.33, 147.55], [0, 0.805, 464.08, 105.09, 495.74, 146.99],
            [0, 0.953, 276.11, 103.84, 291.44, 150.72],
        ],
    ),
    (
        [
            [49, 72.92, 45.96, 91.23, 80.57], [49, 50.17, 45.34, 71.28, 79.83],
            [49, 81.28, 47.04, 98.66, 78.5], [49, 63.96, 46.17, 84.35, 80.48],
            [49, 75.29, 23.01, 91.85, 50.85], [49, 56.39, 21.65, 75.66, 45.54],
            [49, 73.14, 1.1, 98.96, 28.33], [49, 62.34, 55.23, 78.14, 79.57],
            [49, 44.17, 45.78, 63.99, 78.48], [49, 58.18, 44.8, 66.42, 56.25],
        ],
        [
            [49, 0.532, 72.92, 45.96, 91.23, 80.57], [49, 0.204, 45.17, 45.34, 66.28, 79.83],
            [49, 0.782, 82.28, 47.04, 99.66, 78.5], [49, 0.202, 59.96, 46.17, 80.35, 80.48],
            [49, 0.883, 75.29, 23.01, 91.85, 50.85], [49, 0.271, 71.14, 1.1, 96.96, 28.33],
            [49, 0.561, 61.34, 55.23, 77.14, 79.57], [49, 0.204, 41.17, 45.78, 60.99, 78.48],
            [49, 0.349, 56.18, 44.8, 64.42, 56.25],
        ],
    ),
]  # fmt: skip
SMALL_BOX = [0, 10, 20, 15, 25]


@pytest.mark.parametrize(
    ("scene", "published"),
    [
        (SHIFTED, [0.6, 1, 1, -1, -1, 0.6, 0.6, 0.6, 0.6, -1, -1, 0.6]),
        # torchmetrics' issue 943: an image without objects, with a false positive of equal score
        ([*SHIFTED, ([], [[0, 0.536, 258, 41, 606, 285]])], [0.6]),
        # issue 981: an image without predictions
        ([*SHIFTED, ([[1, 1, 2, 3, 4]], [])], [0.3, 0.5, 0.5, 0, -1, 0.6]),
        ([([SMALL_BOX], [[0, 0.9, 10, 20, 15, 25]]), ([SMALL_BOX], [])], [51 / 101]),
        (
            [([SMALL_BOX], [[0, 0.9, 10, 20, 15, 25]]), ([], [[0, 0.95, 10, 20, 15, 25]])],
            [0.5, 0.5, 0.5],
        ),
        ([([[4, 214.15, 41.29, 562.41, 285.07]], [])], [0, 0, 0, -1, -1, 0, 0, 0, 0, -1, -1, 0]),
        ([([], [[4, 0.5, 214.15, 41.29, 562.41, 285.07]])], [-1] * 12),
        # IoU of a quarter: boxes are from corner to corner, not width and height
        ([([[0, 0, 0, 1, 1]], [[0, 1.0, 0.5, 0.5, 1, 1]])], [0, 0, 0]),
        (OF_FOUR_IMAGES, []),
    ],
)
def test_boxes(scene: Scene, published: list[float]) -> None:
    figures = average_precision(scene, "bbox")
    assert figures[: len(published)] == pytest.approx(published, abs=1e-12)


MASK = [".....", "..##.", "..##.", ".....", "....."]
OTHER = [".....", "..#..", "..##.", "..#..", "....."]


@pytest.mark.parametrize(
    ("scene", "published"),
    [
        # IoU 0.6. torchmetrics publishes 0.2: its thresholds are float32, and that of 0.6 is
        # 0.6000000238. pycocotools and we give 0.3.
        (
            [([[0, OTHER]], [[0, 0.536, MASK]])],
            [0.3, 1, 0, 0.3, -1, -1, 0.3, 0.3, 0.3, 0.3, -1, -1],
        ),
        ([([], [[4, 0.5, ["....."] * 5]])], [-1] * 12),
    ],
)
def test_masks(scene: Scene, published: list[float]) -> None:
    assert average_precision(scene, "segm", (5, 5)) == pytest.approx(published, abs=1e-12)


PREDICTED = """
60 00 60 60 01
00 00 60 01 01
00 00 60 01 10
00 70 60 10 10
00 70 70 70 70
"""
ANNOTATED = """
60 60 60 60 00
01 01 60 00 00
01 01 60 10 10
01 70 70 10 10
01 70 70 70 70
"""
PREDICTED_4 = """
60 00 60 60
00 00 60 01
00 00 60 01
00 70 60 10
00 70 70 70
"""
ANNOTATED_4 = """
60 01 60 01
01 01 60 01
01 01 60 10
01 70 10 10
01 70 70 70
"""


def panoptic(
    predicted: str, annotated: str, stuff: str
) -> dict[str, tuple[float, float, float]] | None:
    """Count one image whose pixels are a class's and an instance's letter; classes by their letter.

    Of stuff the instance does not count, and a class "." is void.
    """
    letters = sorted({pixel[0] for pixel in (predicted + annotated).split()} - {"."})
    categories = [
        Category(index=i, id=i, name=letter, is_thing=letter not in stuff, color=(0, 0, 0))
        for i, letter in enumerate(letters)
    ]
    maps: list[Any] = []
    for text in (annotated, predicted):
        rows = [line.split() for line in text.strip().splitlines()]
        names = [[p[0] if p[0] in stuff else p for p in row] for row in rows]
        found = sorted({name for row in names for name in row if name[0] != "."})
        ids = np.array([[found.index(n) + 1 if n in found else 0 for n in row] for row in names])
        segments = [
            GroundTruthSegment(
                id=n, category_id=letters.index(name[0]), area=int((ids == n).sum()), is_crowd=False
            )
            for n, name in enumerate(found, start=1)
        ]
        maps += [ids.astype(np.int32), segments]
    quality = PanopticQuality(categories)
    for _ in range(2):  # images that are equal change no figure
        quality.update(*maps)
    figures = quality.compute()
    found = {name: (one.pq, one.sq, one.rq) for name, one in figures.per_class.items()}
    return found | {"all": (figures.all.pq, figures.all.sq, figures.all.rq)}


@pytest.mark.parametrize(
    ("predicted", "annotated", "stuff", "published"),
    [
        (PREDICTED, ANNOTATED, "67", {"all": (0.7753,)}),
        (
            PREDICTED_4,
            ANNOTATED_4,
            "67",
            {
                "all": (0.5463, 0.6111, 0.6667),
                "0": (0.5185, 0.7778, 0.6667),
                "1": (0.0, 0.0, 0.0),
                "6": (0.6667, 0.6667, 1.0),
                "7": (1.0, 1.0, 1.0),
            },
        ),
        ("a0 ab 01 a0 12", "a0 a0 00 01 10", "a", {"all": ((2 / 3 + 1 + 2 / 3) / 3,)}),
        ("00 00 20 20 20 10", "00 00 20 20 10 10", "012", {"0": (1,), "2": (2 / 3,), "1": (0,)}),
        ("00 00 20 20 20 10", "00 00 20 20 10 10", "", {"0": (1,), "2": (2 / 3,), "1": (0,)}),
        (ANNOTATED, ANNOTATED, "67", {"all": (1.0, 1.0, 1.0)}),
        ("00 00", ".. ..", "", {"all": (0.0,)}),
    ],
)
def test_panoptic_quality(
    predicted: str, annotated: str, stuff: str, published: dict[str, tuple[float, ...]]
) -> None:
    found = panoptic(predicted, annotated, stuff)
    assert found is not None
    for name, values in published.items():
        assert found[name][: len(values)] == pytest.approx(values, abs=5.1e-5), name


def test_void_changes_no_panoptic_quality() -> None:
    beside = "\n".join(f"{a} .." for a in ANNOTATED.strip().splitlines())
    wider = "\n".join(f"{a} 60" for a in PREDICTED.strip().splitlines())
    assert panoptic(wider, beside, "67") == panoptic(PREDICTED, ANNOTATED, "67")
