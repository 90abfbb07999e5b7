from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.compare import kept_of
from harness.image import BenchImage
from harness.ours import open_model, run_network
from harness.rows import Scale
from harness.weights import write_random_model
from panodetr.predict import Predictor


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_scale: Scale) -> Predictor:
    image = BenchImage(file=tiny_scale.image, size=tiny_scale.fed)
    folder = tmp_path_factory.mktemp("random") / "model"
    written = write_random_model(
        folder, tiny_scale.segmenter, image, tiny_scale.kept, tiny_scale.rule
    )
    found = open_model(written.folder)
    assert found.spec.threshold == written.threshold
    return found


@pytest.fixture(scope="module")
def image(tiny_scale: Scale) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return BenchImage(file=tiny_scale.image, size=tiny_scale.fed).pixels()


def test_so_many_queries_are_kept_and_none_by_a_hair(
    model: Predictor, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    logits = run_network(model, image).logits[0]
    for factor in (0.999, 1, 1.001):
        assert len(kept_of(logits, model.spec.threshold * factor)) == 3


def test_masks_are_regions_unless_noise_is_asked_for(tmp_path: Path, tiny_scale: Scale) -> None:
    image = BenchImage(file=tiny_scale.image, size=tiny_scale.fed)
    edges: list[float] = []
    for smooth in (True, False):
        written = write_random_model(
            tmp_path / str(smooth), tiny_scale.segmenter, image, 3, tiny_scale.rule, smooth=smooth
        )
        found = run_network(open_model(written.folder), image.pixels())
        inside = found.masks([np.arange(9)])[0].logits() > 0
        edges.append(float((inside[..., 1:] != inside[..., :-1]).mean()))
    assert edges[1] > 2 * edges[0]
