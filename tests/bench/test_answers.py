"""What two sides answered, held against each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import panodetr
from harness.agreement import agree, first_images
from harness.compare import (
    GREY_LEVEL,
    compare,
    compare_loosely,
    kept_of,
    network_answer,
    threshold_keeping,
)
from harness.image import BenchImage
from harness.ours import run_network
from harness.process import Answer
from harness.rows import Scale
from harness.weights import write_random_model
from panodetr.checkpoints.load import load_checkpoint
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.loading import predictor_of


@pytest.fixture
def answer() -> Answer:
    """Nine queries of six classes, three kept, with the masks of all."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (9, 7)).astype(np.float32)
    logits[:, -1] = -20
    boxes = random.uniform(0.2, 0.6, (9, 4)).astype(np.float32)
    masks = random.normal(0, 30, (9, 8, 6)).astype(np.float32)
    kept = kept_of(logits, threshold_keeping(logits, 3))
    return network_answer(logits, boxes, kept, masks, np.arange(9))


@given(st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_a_threshold_keeps_what_it_is_made_for(kept: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, (9, 7)).astype(np.float32)
    logits[:, -1] = -20
    assert len(kept_of(logits, threshold_keeping(logits, kept))) == kept


@pytest.mark.parametrize(
    ("what", "added", "same"),
    [
        ("boxes", 9e-5, True),
        ("boxes", 2e-4, False),
        ("logits", 2e-4, True),  # of a largest value of 20
        ("logits", 3e-3, False),
        ("masks", 3e-2, False),
        ("masks", np.nan, False),
    ],
)
def test_a_difference_counts_by_the_largest_value(
    answer: Answer, what: str, added: float, same: bool
) -> None:
    found = compare({**answer, what: answer[what] + np.float32(added)}, answer, 3)
    assert found.same is same
    assert found.text.startswith("DIFFERS: ") is not same


def test_other_kept_queries_another_number_or_size_are_not_the_same(answer: Answer) -> None:
    assert compare(answer, answer, 4).same is False
    for kept, text in ((answer["kept"][1:], "2 and 3 kept"), (np.arange(9)[-3:], "")):
        found = compare({**answer, "kept": kept}, answer, 3)
        assert found.same is False
        assert found.text.startswith(f"DIFFERS: {text}")
    pixels = np.zeros((1, 3, 4, 5), np.float32)
    for other, same in (
        (pixels + 0.9 * GREY_LEVEL, True),
        (pixels + 1.2 * GREY_LEVEL, False),
        (pixels[..., :4], False),
    ):
        assert compare({"pixels": other}, {"pixels": pixels}, 3).same is same


def test_loose_agreement_is_that_of_each_query_that_either_side_keeps(answer: Answer) -> None:
    kept = answer["kept"]
    own = network_answer(answer["logits"], answer["boxes"], kept, answer["masks"][kept])
    same = compare_loosely(answer, own, 3)
    assert same.same is True
    assert same.text == (
        "3 kept, 3 of them the same; their 3: classes 100.0 %, box IoU 1.000, mask IoU 1.000"
    )
    # Two agree wholly, and one that only the other side keeps not at all.
    masks = answer["masks"].copy()
    masks[kept[0]] *= -1
    other = np.sort([np.setdiff1d(np.arange(9), kept)[0], *kept[1:]])
    found = compare_loosely({**answer, "masks": masks, "kept": other}, answer, 3)
    assert found.figures["shared"] == 2
    assert found.figures["mask_iou"] == pytest.approx(2 / 3)


@pytest.mark.slow
def test_a_model_agrees_with_itself_and_rougher_weights_agree_less(shared_data: Path) -> None:
    whole = GroundTruth.open(shared_data / "nuclei", "val")
    small = tuple(image for image in whole.images if max(image.size) <= 256)
    truth = first_images(replace(whole, images=small), 2)
    model = panodetr.load("nuclei", device="cpu")
    figures = agree(model, model, truth)
    assert figures["queries"] > 5
    assert figures["classes"] == figures["mask_iou"] == 1
    assert figures["box_iou"] == pytest.approx(1)
    assert figures["pq"] == figures["reference_pq"] > 0.3
    spec, network = load_checkpoint("nuclei")
    with torch.no_grad():
        for weight in network.parameters():
            step = weight.abs().max() / 31  # six bits
            weight.copy_((weight / step).round() * step)
    figures = agree(model, predictor_of(spec, network), truth)
    assert 0.5 < figures["mask_iou"] < 0.999
    assert 0.5 < figures["box_iou"] < 0.999


def test_random_models_keep_so_many_queries_and_have_regions_for_masks(
    tmp_path: Path, tiny_scale: Scale
) -> None:
    image = BenchImage(file=tiny_scale.image, size=tiny_scale.fed)
    edges: list[float] = []
    for smooth in (True, False):
        written = write_random_model(
            tmp_path / str(smooth), tiny_scale.segmenter, image, 3, tiny_scale.rule, smooth=smooth
        )
        model = panodetr.load(written.folder, device="cpu")
        assert model.spec.threshold == written.threshold
        found = run_network(model, image.pixels())
        for factor in (0.999, 1, 1.001):  # none by a hair
            assert len(kept_of(found.logits[0], written.threshold * factor)) == 3
        inside = found.masks([np.arange(9)])[0].logits() > 0
        edges.append(float((inside[..., 1:] != inside[..., :-1]).mean()))
    assert edges[1] > 2 * edges[0]
