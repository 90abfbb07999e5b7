from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import panodetr
from harness.agreement import agree, first_images
from panodetr.checkpoints.load import load_checkpoint
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.predict import Predictor
from panodetr.runtimes.torch import TorchRuntime


@pytest.fixture
def truth(shared_data: Path) -> GroundTruth:
    whole = GroundTruth.open(shared_data / "nuclei", "val")
    small = tuple(image for image in whole.images if max(image.size) <= 256)
    return first_images(replace(whole, images=small), 2)


def test_a_model_agrees_with_itself(truth: GroundTruth) -> None:
    model = panodetr.load("nuclei", device="cpu")
    done: list[tuple[int, int]] = []
    figures = agree(model, model, truth, lambda one, all: done.append((one, all)))
    assert figures["queries"] > 5
    assert figures["classes"] == figures["mask_iou"] == 1
    assert figures["box_iou"] == pytest.approx(1)
    assert figures["pq"] == figures["reference_pq"] > 0.3
    assert done == [(1, 2), (2, 2)]


def test_rougher_weights_agree_less(truth: GroundTruth) -> None:
    model = panodetr.load("nuclei", device="cpu")
    spec, network = load_checkpoint("nuclei")
    with torch.no_grad():
        for weight in network.parameters():
            step = weight.abs().max() / 31  # six bits
            weight.copy_((weight / step).round() * step)
    rough = Predictor(spec, TorchRuntime(network, spec.preprocessing, torch.device("cpu")))
    figures = agree(model, rough, truth)
    assert 0.5 < figures["mask_iou"] < 0.999
    assert 0.5 < figures["box_iou"] < 0.999
