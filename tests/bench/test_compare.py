from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare import (
    GREY_LEVEL,
    compare,
    compare_loosely,
    kept_of,
    network_answer,
    threshold_keeping,
)
from harness.process import Answer


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


def only_kept(answer: Answer) -> Answer:
    kept = answer["kept"]
    return network_answer(answer["logits"], answer["boxes"], kept, answer["masks"][kept])


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
        ("masks", 3e-3, True),
        ("masks", 3e-2, False),
        ("masks", np.nan, False),
    ],
)
def test_a_difference_counts_by_the_largest_value(
    answer: Answer, what: str, added: float, same: bool
) -> None:
    moved = {**answer, what: answer[what] + np.float32(added)}
    found = compare(moved, answer, 3)
    assert found.same is same
    assert found.text.startswith("DIFFERS: ") is not same


def test_other_kept_queries_or_another_number_are_not_the_same(answer: Answer) -> None:
    assert compare(answer, answer, 4).same is False
    fewer = {**answer, "kept": answer["kept"][1:]}
    found = compare(only_kept(fewer), answer, 3)
    assert (found.same, found.text[:21]) == (False, "DIFFERS: 2 and 3 kept")
    other = np.setdiff1d(np.arange(9), answer["kept"])[:3]
    assert compare({**answer, "kept": other}, answer, 3).same is False


@pytest.mark.parametrize(("levels", "same"), [(0.9, True), (1.2, False)])
def test_a_prepared_image_may_differ_by_a_grey_level(levels: float, same: bool) -> None:
    pixels = np.zeros((1, 3, 4, 5), np.float32)
    found = compare({"pixels": pixels + levels * GREY_LEVEL}, {"pixels": pixels}, 3)
    assert found.same is same
    smaller = {"pixels": pixels[..., :4]}
    assert compare(smaller, {"pixels": pixels}, 3).same is False


def test_loose_agreement_is_that_of_each_query_with_itself(answer: Answer) -> None:
    same = compare_loosely(answer, only_kept(answer), 3)
    assert same.same is True
    assert same.figures == {
        "kept": 3, "shared": 3, "classes": 1, "box_iou": pytest.approx(1), "mask_iou": 1,
    }  # fmt: skip
    assert same.text == (
        "3 kept, 3 of them the same; their 3: classes 100.0 %, box IoU 1.000, mask IoU 1.000"
    )


def test_queries_that_only_the_other_side_keeps_count_too(answer: Answer) -> None:
    """Those that both keep agree wholly here, and one that ours does not keep not at all."""
    lost = answer["kept"][0]
    other = next(query for query in range(9) if query not in answer["kept"])
    masks = answer["masks"].copy()
    masks[lost] *= -1
    kept = np.sort([other, *answer["kept"][1:]])
    found = compare_loosely({**answer, "masks": masks, "kept": kept}, answer, 3)
    assert found.same is True
    assert found.figures["shared"] == 2
    assert found.figures["mask_iou"] == pytest.approx(2 / 3)
