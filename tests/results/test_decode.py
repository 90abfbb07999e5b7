from __future__ import annotations

import numpy as np
import torch

from panodetr.results.decode import decode_detections, softmax


def test_softmax_is_torchs_and_does_not_overflow() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32) * 100
    expected = torch.from_numpy(logits).softmax(-1).numpy()
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-6)


def test_every_query_gets_its_best_real_class() -> None:
    logits = np.array(
        [[1, 3, 2, 9], [5, 0, 0, 0]], np.float32
    )  # the first is "no object" above all
    boxes = np.array([[0.5, 0.5, 1, 1], [0.25, 0.75, 0.5, 0.1]], np.float32)
    scores, classes, corners = decode_detections(logits, boxes, (100, 200))
    assert classes.tolist() == [1, 0]
    np.testing.assert_allclose(scores, softmax(logits)[[0, 1], [1, 0]])
    np.testing.assert_allclose(corners, [[0, 0, 200, 100], [0, 70, 100, 80]], atol=1e-4)


def test_no_queries() -> None:
    scores, classes, boxes = decode_detections(
        np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32), (10, 10)
    )
    assert scores.shape == classes.shape == (0,)
    assert boxes.shape == (0, 4)
