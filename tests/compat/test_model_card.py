"""The code of facebook/detr-resnet-101-panoptic's model card, with a smaller model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from panodetr import DetrFeatureExtractor, DetrForSegmentation
from panodetr.compat import DetrSegmentationOutput, rgb_to_id


def test_the_card_runs_to_its_last_line(checkpoint: Path, official: Any) -> None:
    image = Image.open(official.image)

    feature_extractor = DetrFeatureExtractor.from_pretrained(checkpoint)
    model = DetrForSegmentation.from_pretrained(checkpoint)

    # prepare image for the model
    inputs = feature_extractor(images=image, return_tensors="pt")

    # forward pass
    outputs = model(**inputs)

    # use the `post_process_panoptic` method to convert to COCO format
    processed_sizes = torch.as_tensor(inputs["pixel_values"].shape[-2:]).unsqueeze(0)
    result = feature_extractor.post_process_panoptic(outputs, processed_sizes, threshold=0.2)[0]

    # the segmentation is stored in a special-format png
    panoptic_seg = Image.open(io.BytesIO(result["png_string"]))
    panoptic_seg = numpy.array(panoptic_seg, dtype=numpy.uint8)
    # retrieve the ids corresponding to each mask
    panoptic_seg_id = rgb_to_id(panoptic_seg)

    assert panoptic_seg_id.shape == tuple(inputs["pixel_values"].shape[-2:])
    assert result["segments_info"]
    for segment in result["segments_info"]:
        assert segment["area"] == numpy.count_nonzero(panoptic_seg_id == segment["id"])
        assert segment["isthing"] == (segment["category_id"] == 0)


def test_every_reading_of_the_outputs_takes_an_official_image(
    checkpoint: Path, official: Any
) -> None:
    image = Image.open(official.image)
    processor = DetrFeatureExtractor.from_pretrained(checkpoint)
    inputs = processor(image, official.annotation, masks_path=official.folder, return_tensors="pt")
    (labels,) = inputs.pop("labels")
    assert len(labels.masks) == len(official.annotation["segments_info"])
    outputs = DetrForSegmentation.from_pretrained(checkpoint)(**inputs)
    size = image.size[::-1]
    (boxes,) = processor.post_process_object_detection(outputs, 0.2, [size])
    assert len(boxes["scores"]) == len(boxes["boxes"]) > 0
    (everything,) = processor.post_process(outputs, torch.tensor([size]))
    assert len(everything["scores"]) == 5
    (classes,) = processor.post_process_semantic_segmentation(outputs, [size])
    instances = processor.post_process_instance_segmentation(outputs, 0.2, target_sizes=[size])
    segments = processor.post_process_panoptic_segmentation(outputs, 0.2, target_sizes=[size])
    for found in (classes, instances[0]["segmentation"], segments[0]["segmentation"]):
        assert isinstance(found, torch.Tensor)
        assert found.shape == size
    (masks,) = processor.post_process_segmentation(outputs, [size], threshold=0.2)
    assert masks["masks"].shape == (len(masks["scores"]), *size)


@pytest.mark.parametrize("image", [0, 1, 2])
def test_the_cards_merging_is_the_originals(golden: Path, image: int) -> None:
    with numpy.load(golden / "facebook-panoptic-merge.npz") as file:
        data = {key.split("/")[1]: file[key] for key in file.files if key.startswith(f"{image}/")}
    outputs = DetrSegmentationOutput(
        logits=torch.from_numpy(data["logits"])[None],
        pred_boxes=torch.from_numpy(data["boxes"])[None],
        pred_masks=torch.from_numpy(data["masks"])[None],
    )
    (result,) = DetrFeatureExtractor().post_process_panoptic(
        outputs,
        torch.from_numpy(data["processed_size"])[None],
        torch.from_numpy(data["target_size"])[None],
        is_thing_map={index: index < 7 for index in range(10)},
    )
    with Image.open(io.BytesIO(result["png_string"])) as png:
        numpy.testing.assert_array_equal(rgb_to_id(numpy.array(png)), data["ids"])
    found = result["segments_info"]
    assert [segment["id"] for segment in found] == list(range(len(found)))
    assert [segment["category_id"] for segment in found] == data["category"].tolist()
    assert [segment["area"] for segment in found] == data["area"].tolist()
    assert [segment["isthing"] for segment in found] == (data["category"] < 7).tolist()


@pytest.mark.parametrize("image", [(64, 96), (50, 70), (33, 95), (64, 13)])
def test_padding_changes_no_reading(image: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits, boxes = torch.randn(1, 6, 5) * 3, torch.rand(1, 6, 4)
    masks = torch.randn(1, 6, 16, 24) * 3
    own = masks[:, :, : -(-image[0] // 4), : -(-image[1] // 4)].clone()
    processor, sizes = DetrFeatureExtractor(), [(80, 120)]
    first, second = (
        (
            processor.post_process_semantic_segmentation(outputs, sizes),
            processor.post_process_panoptic_segmentation(outputs, 0.3, target_sizes=sizes),
            processor.post_process_instance_segmentation(outputs, 0.3, target_sizes=sizes),
            processor.post_process_segmentation(outputs, sizes, 0.3),
            processor.post_process_panoptic(outputs, [image], sizes, threshold=0.3),
        )
        for outputs in (
            DetrSegmentationOutput(
                logits=logits, pred_boxes=boxes, pred_masks=masks, image_sizes=[image]
            ),
            DetrSegmentationOutput(logits=logits, pred_boxes=boxes, pred_masks=own),
        )
    )
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(
            [plain(part) for part in one], [plain(part) for part in other], rtol=0, atol=0
        )


def plain(found: Any) -> Any:
    if isinstance(found, torch.Tensor):
        return found
    tensors = [value for value in found.values() if isinstance(value, torch.Tensor)]
    return tensors or torch.frombuffer(bytearray(found["png_string"]), dtype=torch.uint8)
