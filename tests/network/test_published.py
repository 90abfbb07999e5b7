"""Every published model, from the hub: its weights, its architecture, and what it sees.

`pytest -m network tests/network/test_published.py` fetches 1.6 GB into the hub's cache.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from urllib.request import urlopen

import pytest

import panodetr
from panodetr.checkpoints.hub import fetch
from panodetr.checkpoints.load import load_spec
from panodetr.checkpoints.published import PUBLISHED, Published
from panodetr.checkpoints.spec import WEIGHTS_FILES
from panodetr.errors import CheckpointError
from panodetr.predict import Predictor
from panodetr.results.types import Detection

pytestmark = pytest.mark.network

IMAGE = "http://images.cocodataset.org/val2017/000000039769.jpg"
"""The image of DETR's model cards."""

THINGS = {"cat": 2, "remote": 2, "couch": 1}
"""What is on it, by COCO's ground truth."""

DOCUMENTED = (
    ("remote", 0.998, (40.16, 70.81, 175.55, 117.98)),
    ("remote", 0.996, (333.24, 72.55, 368.33, 187.66)),
    ("couch", 0.995, (-0.02, 1.15, 639.73, 473.76)),
    ("cat", 0.999, (13.24, 52.05, 314.02, 470.93)),
    ("cat", 0.999, (345.4, 23.85, 640.37, 368.72)),
)
"""Label, score and box (x0, y0, x1, y1 in pixels) of what transformers' documentation prints for
facebook/detr-resnet-50 on that image, at threshold 0.9."""

SCORE_TOLERANCE = 0.005
BOX_TOLERANCE = 1.0  # pixels: decoders of JPEG differ by a grey level


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("image") / "000000039769.jpg"
    try:
        with urlopen(IMAGE, timeout=30) as answer:
            file.write_bytes(answer.read())
    except OSError as error:
        pytest.skip(f"cannot fetch {IMAGE}: {error}")
    return file


@pytest.fixture(params=PUBLISHED, ids=lambda published: published.hub_id)
def published(request: pytest.FixtureRequest) -> Published:
    return request.param


@pytest.fixture
def folder(published: Published) -> Path:
    return fetched(published.hub_id)


def fetched(hub_id: str) -> Path:
    """The folder of a model in the cache; skips the test where the hub is out of reach."""
    try:
        return fetch(hub_id)
    except CheckpointError as error:
        if "cannot reach the hub" in str(error) or "offline mode" in str(error):
            pytest.skip(str(error))
        raise


def test_weights_have_the_digest_that_the_hub_states(folder: Path) -> None:
    file = next(folder / name for name in WEIGHTS_FILES if (folder / name).is_file())
    # The cache names the file that the link leads to by the SHA-256 that the hub states.
    with file.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == file.resolve().name


def test_the_architecture_is_the_listed_one(published: Published, folder: Path) -> None:
    spec = load_spec(folder)
    assert spec.architecture == published.architecture
    assert [(c.id, c.name) for c in spec.categories] == [
        (c.id, c.name) for c in published.categories
    ]


def test_what_is_on_the_image_is_found(published: Published, folder: Path, image: Path) -> None:
    if not published.hub_id.startswith(("facebook/", "microsoft/conditional")):
        pytest.skip("finds tables, and the image has none")
    # The original's for a demonstration; scores of a sigmoid are lower.
    least = 0.5 if "conditional" in published.hub_id else 0.7
    result = load(folder).detect(image, threshold=least)
    found = Counter(detection.label for detection in result.detections)
    assert {label: found[label] for label in THINGS if found[label] < THINGS[label]} == {}


def test_the_documented_detections_are_found(image: Path) -> None:
    found = list(load(fetched("facebook/detr-resnet-50")).detect(image, threshold=0.9).detections)
    assert len(found) == len(DOCUMENTED)
    for label, score, box in DOCUMENTED:
        nearest = min(
            (detection for detection in found if detection.label == label),
            key=lambda detection: distance(detection, box),
        )
        assert nearest.score == pytest.approx(score, abs=SCORE_TOLERANCE)
        assert distance(nearest, box) <= BOX_TOLERANCE


def load(folder: Path) -> Predictor:
    return panodetr.load(folder, device="cpu")


def distance(detection: Detection, box: tuple[float, float, float, float]) -> float:
    """Pixels between the edges that lie furthest apart."""
    return max(abs(a - b) for a, b in zip(detection.box, box, strict=True))
