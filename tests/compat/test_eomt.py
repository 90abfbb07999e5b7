"""transformers' EoMT classes over ours, against transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panodetr.compat import EomtForUniversalSegmentation, EomtImageProcessor
from panodetr.errors import CheckpointError, UsageError

SIZES = [(60, 80), (90, 41)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("eomt")
    torch.manual_seed(0)
    model = transformers.EomtForUniversalSegmentation(
        transformers.EomtConfig(
            hidden_size=48, num_hidden_layers=4, num_attention_heads=4, image_size=64, num_blocks=2,
            num_queries=9, num_labels=6,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        model.class_predictor.bias[-1] -= 2
    model.attn_mask_probs.zero_()
    model.save_pretrained(place)
    size = {"shortest_edge": 64, "longest_edge": 64}
    transformers.EomtImageProcessorPil(size=size, do_pad=True).save_pretrained(place)
    return place


def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8)).resize((size[1], size[0]))
        for size in SIZES
    ]


def answers(folder: Path, **options: Any) -> tuple[Any, Any, Any, Any]:
    """Processors and outputs, ours and theirs, of the same images."""
    transformers = pytest.importorskip("transformers")
    ours = EomtImageProcessor.from_pretrained(folder, **options)
    theirs = transformers.EomtImageProcessorPil.from_pretrained(folder, **options)
    mine = ours(images(), return_tensors="pt")
    other = theirs(images(), return_tensors="pt")
    torch.testing.assert_close(mine["pixel_values"], other["pixel_values"], rtol=0, atol=1e-5)
    model = EomtForUniversalSegmentation.from_pretrained(folder)
    reference = transformers.EomtForUniversalSegmentation.from_pretrained(folder)
    with torch.inference_mode():
        found, expected = model(**mine), reference(**other)
    for name in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)
    return ours, found, theirs, expected


@pytest.mark.parity
def test_segments_are_those_of_transformers(folder: Path) -> None:
    ours, found, theirs, expected = answers(folder)
    calls: list[tuple[str, dict[str, Any]]] = [
        (
            "panoptic",
            {"threshold": 0.2, "overlap_mask_area_threshold": 0.05, "stuff_classes": [0, 1, 2]},
        ),
        ("panoptic", {"threshold": 0.99}),
        ("instance", {"threshold": 0.1}),
    ]
    for task, options in calls:
        name = f"post_process_{task}_segmentation"
        mine = getattr(ours, name)(found, SIZES, **options)
        other = getattr(theirs, name)(expected, target_sizes=SIZES, **options)
        for a, b in zip(mine, other, strict=True):
            assert [(s["id"], s["label_id"]) for s in a["segments_info"]] == [
                (s["id"], s["label_id"]) for s in b["segments_info"]
            ]
            for s, t in zip(a["segments_info"], b["segments_info"], strict=True):
                assert s["score"] == pytest.approx(t["score"], abs=1e-4)
            assert (a["segmentation"] == b["segmentation"]).float().mean() > 0.999
        assert (options["threshold"] < 0.9) == any(one["segments_info"] for one in mine)


@pytest.mark.parity
def test_classes_of_split_images_are_those_of_transformers(folder: Path) -> None:
    size = {"shortest_edge": 64, "longest_edge": None}
    ours, found, theirs, expected = answers(folder, do_split_image=True, do_pad=False, size=size)
    assert len(found["class_queries_logits"]) == 5  # windows
    mine = ours.post_process_semantic_segmentation(found, SIZES)
    other = theirs.post_process_semantic_segmentation(expected, target_sizes=SIZES)
    for a, b in zip(mine, other, strict=True):
        assert (a == b).float().mean() > 0.999


def test_what_these_classes_do_not_do_is_said(folder: Path, tiny_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is no EoMT; use DetrForSegmentation"):
        EomtForUniversalSegmentation.from_pretrained(tiny_folder)
    model = EomtForUniversalSegmentation.from_pretrained(folder)
    with pytest.raises(UsageError, match="computes no loss"):
        model(torch.zeros(1, 3, 64, 64), mask_labels=[])
    with pytest.raises(UsageError, match="no option 'sise'"):
        EomtImageProcessor.from_pretrained(folder, sise=3)
    ragged = EomtImageProcessor.from_pretrained(folder, do_pad=False)
    with pytest.raises(UsageError, match="several sizes; pass do_pad=True"):
        ragged(images(), return_tensors="pt")
