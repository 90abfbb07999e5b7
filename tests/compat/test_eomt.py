"""transformers' EoMT classes over ours, against transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panodetr.compat import EomtForUniversalSegmentation, EomtImageProcessor
from panodetr.errors import CheckpointError, DataError, ImageError, UsageError

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
    scored = ours.post_process_semantic_segmentation(found, SIZES, return_segmentation_scores=True)
    other = theirs.post_process_semantic_segmentation(
        expected, target_sizes=SIZES, return_segmentation_scores=True
    )
    for a, b, c in zip(mine, scored, other, strict=True):
        assert (a == c.segmentation).float().mean() > 0.999
        assert torch.equal(a, b["segmentation"])
        torch.testing.assert_close(
            b["segmentation_scores"], c.segmentation_scores, rtol=1e-4, atol=1e-4
        )


def maps() -> list[Any]:
    """Ids 0 to 5 in the sizes of the images: an image with an index a pixel, and an array."""
    random = np.random.default_rng(1)
    first, second = (
        np.array(Image.fromarray(random.integers(0, 6, (5, 6), np.uint8)).resize((w, h), 0))
        for h, w in SIZES
    )
    return [Image.fromarray(first), second.astype(np.int64)]


CLASSES = {0: 4, 1: 2, 2: 2, 3: 5, 4: 1, 5: 3}
SPLIT: dict[str, Any] = {"do_split_image": True, "size": {"shortest_edge": 64, "longest_edge": 200}}


@pytest.mark.parity
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ignore_index": 255},
        {"ignore_index": 2, "instance_id_to_semantic_id": CLASSES},
        {"instance_id_to_semantic_id": [CLASSES, dict(enumerate(range(6)))]},
        {
            "do_resize": False,
            "ignore_index": 255,
            "size": {"shortest_edge": 90, "longest_edge": 90},
        },
        SPLIT | {"do_pad": False, "ignore_index": 255},
        SPLIT | {"instance_id_to_semantic_id": CLASSES},
    ],
    ids=["classes", "ignored", "ids", "ids-of-each", "not-resized", "split", "split-and-padded"],
)
def test_labels_of_segmentation_maps_are_those_of_transformers(
    folder: Path, options: dict[str, Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    found, expected = (
        make.from_pretrained(folder)(images(), maps(), **options)
        for make in (EomtImageProcessor, transformers.EomtImageProcessorPil)
    )
    for name in ("mask_labels", "class_labels"):
        assert len(found[name]) == len(found["pixel_values"])
        for mine, other in zip(found[name], expected[name], strict=True):
            assert mine.dtype == other.dtype
            assert torch.equal(mine, other)


@pytest.mark.parity
@pytest.mark.parametrize("training", [False, True])
def test_the_loss_and_its_gradients_are_those_of_transformers(folder: Path, training: bool) -> None:
    transformers = pytest.importorskip("transformers")
    inputs = EomtImageProcessor.from_pretrained(folder)(
        images(), maps(), return_tensors="pt", ignore_index=255
    )
    found: list[torch.Tensor] = []
    gradients: list[torch.Tensor] = []
    for kind in (transformers.EomtForUniversalSegmentation, EomtForUniversalSegmentation):
        model = kind.from_pretrained(folder).train(training)
        torch.manual_seed(3)
        if training and kind is EomtForUniversalSegmentation:
            torch.rand(2, 2, 9)  # theirs draws which queries are masked, of which none are
        loss = model(**inputs).loss
        loss.backward()
        queries = (
            model.eomt.queries if isinstance(model, EomtForUniversalSegmentation) else model.query
        )
        found.append(loss.detach())
        assert queries.weight.grad is not None
        gradients.append(queries.weight.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


def test_what_these_classes_do_not_do_is_said(folder: Path, tiny_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is no EoMT; use DetrForSegmentation"):
        EomtForUniversalSegmentation.from_pretrained(tiny_folder)
    model = EomtForUniversalSegmentation.from_pretrained(folder)
    none = model(torch.zeros(1, 3, 64, 64), mask_labels=[torch.zeros(0, 64, 64)])
    assert none.loss is None
    assert not none.class_queries_logits.requires_grad
    with pytest.raises(DataError, match="1 labels were given for 2 images"):
        model(torch.zeros(2, 3, 64, 64), [torch.zeros(1, 64, 64)], [torch.zeros(1)])
    with pytest.raises(DataError, match="2 mask_labels and 0 class_labels; expected one of each"):
        model(torch.zeros(2, 3, 64, 64), [torch.zeros(1, 64, 64)] * 2, [])
    processor = EomtImageProcessor.from_pretrained(folder)
    with pytest.raises(UsageError, match="1 segmentation maps were given for 2 images"):
        processor(images(), maps()[0])
    with pytest.raises(ImageError, match=r"shape \(41, 3\) and type uint8|shape \(60, 80, 3, 1\)"):
        processor(images()[0], np.zeros((60, 80, 3, 1), np.uint8))
    with pytest.raises(DataError, match="has the id 0, which instance_id_to_semantic_id lacks"):
        processor(images(), maps(), {1: 2})
    with pytest.raises(UsageError, match="no option 'sise'"):
        EomtImageProcessor.from_pretrained(folder, sise=3)
    ragged = EomtImageProcessor.from_pretrained(folder, do_pad=False)
    with pytest.raises(UsageError, match="several sizes; pass do_pad=True"):
        ragged(images(), return_tensors="pt")
