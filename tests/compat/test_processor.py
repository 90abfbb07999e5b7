from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panodetr.checkpoints.load import load_checkpoint
from panodetr.checkpoints.save import save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.compat import (
    DetrFeatureExtractor,
    DetrForSegmentation,
    DetrImageProcessor,
    rgb_to_id,
)
from panodetr.compat.options import ProcessorOptions
from panodetr.errors import DataError, ImageError, UsageError
from panodetr.images.preprocess import resized_size
from panodetr.results.id_map import encode_ids

from .conftest import noise


@pytest.fixture
def small() -> DetrImageProcessor:
    return DetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})


def test_without_padding_images_stay_apart(small: DetrImageProcessor) -> None:
    images = [noise(40, 60), noise(60, 40)]
    found = small(images, do_pad=False)
    assert [pixels.shape for pixels in found["pixel_values"]] == [(3, 32, 48), (3, 48, 32)]
    assert "pixel_mask" not in found
    with pytest.raises(UsageError, match="pass do_pad=True"):
        small(images, do_pad=False, return_tensors="pt")


def test_the_size_rule_and_the_orientation_are_transformers_not_ours(
    small: DetrImageProcessor, tmp_path: Path
) -> None:
    assert ProcessorOptions().target_size((640, 256)) == (1333, 533)
    assert resized_size((640, 256), 800, 1333) == (1332, 533)
    image = Image.fromarray(noise(40, 60))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as turned:
        assert small(turned, return_tensors="np").pixel_values.shape == (1, 3, 32, 48)


def test_a_processor_follows_its_model_and_the_options_given(
    checkpoint: Path, tiny_spec: ModelSpec
) -> None:
    processor = DetrImageProcessor.from_pretrained(checkpoint)
    assert processor.size == {"shortest_edge": 96, "longest_edge": 160}
    assert processor.format == "coco_panoptic"
    assert processor.is_thing == {c.index: c.is_thing for c in tiny_spec.categories}
    changed = DetrImageProcessor.from_pretrained(checkpoint, do_normalize=False)
    assert not changed.do_normalize
    # Those of transformers 4.
    extractor = DetrFeatureExtractor(size=480, max_size=600, pad_and_return_pixel_mask=False)
    assert extractor.size == {"shortest_edge": 480, "longest_edge": 600}
    assert not extractor.do_pad
    assert extractor.is_thing[90]
    assert not extractor.is_thing[92]


def test_a_folder_of_transformers_says_how_images_are_prepared(
    checkpoint: Path, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    spec, model = load_checkpoint(checkpoint)
    folder = save_pretrained(tmp_path / "theirs", spec, model, format="huggingface")
    size = {"max_height": 48, "max_width": 60}  # which `panodetr.load` only approximates
    DetrImageProcessor(size=size, pad_size={"height": 60, "width": 60}).save_pretrained(folder)
    free: dict[str, Any] = {"use_fast": True, "token": "none", "local_files_only": True}
    processor = DetrImageProcessor.from_pretrained(folder, do_normalize=False, **free)
    assert processor.size == size
    above = DetrImageProcessor.from_pretrained(folder.parent, subfolder=folder.name)
    assert above.size == size
    assert processor(noise(64, 128), return_tensors="np").pixel_values.shape == (1, 3, 60, 60)
    assert processor.is_thing == {c.index: c.is_thing for c in tiny_spec.categories}
    DetrForSegmentation.from_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "yolos"}')
    assert DetrImageProcessor.from_pretrained(folder).is_thing[90]
    refused: list[tuple[dict[str, Any], str]] = [
        ({"backend": "mlx"}, "only 'pil' is possible"),
    ]
    for given, remedy in refused:
        with pytest.raises(UsageError, match=remedy):
            DetrImageProcessor.from_pretrained(folder, **given)
    with pytest.raises(UsageError, match="upload_folder"):
        processor.save_pretrained(folder, push_to_hub=True)
    with pytest.raises(UsageError, match="is a file; expected a folder"):
        processor.save_pretrained(folder / "config.json")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"do_rezise": True}, "did you mean 'do_resize'"),
        ({"do_center_crop": True}, "only False is possible"),
        ({"size": {"shortest_edge": 3}}, "expected shortest_edge and longest_edge"),
        ({"size": {"longest": 3}}, "expected shortest_edge and longest_edge"),
        ({"pad_size": {"height": 3}}, "expected height and width"),
        *(
            ({"size": size}, "expected a number, a pair or a dictionary")
            for size in ((1, 2, 3), "large", 3.5, {"height": -1, "width": 4}, {"height": "a"})
        ),
        ({"size": {"shortest_edge": 0, "longest_edge": 80}}, "at least 1 pixel"),
        ({"image_mean": [0.5, 0.5]}, "image_mean has 2 numbers; expected one, 3 or 4"),
        ({"format": "coco"}, "expected 'coco_detection' or 'coco_panoptic'"),
        ({"return_tensors": "tf"}, "expected 'pt', 'np' or None"),
        ({"pad_size": {"height": 8, "width": 8}}, "the images need"),
        ({"annotations": [{}, {}]}, r"images \(1\) and annotations \(2\) do not match"),
        ({"annotations": {}, "format": "coco_panoptic"}, "masks_path is missing"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    small: DetrImageProcessor, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(UsageError, match=line) as raised:
        small(noise(40, 60), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("image", ["image.png", np.zeros((2, 5, 7)), np.zeros(3), []])
def test_what_is_no_image_is_one_line(small: DetrImageProcessor, image: Any) -> None:
    with pytest.raises(ImageError):
        small(image if isinstance(image, np.ndarray | list) else [image])


def test_an_incomplete_annotation_is_one_line(small: DetrImageProcessor, tmp_path: Path) -> None:
    broken = {"image_id": 1, "annotations": [{"bbox": [0, 0, 1, 1], "area": 1}]}
    with pytest.raises(DataError, match='detection annotations: "category_id" is missing'):
        small(noise(40, 60), broken)
    with pytest.raises(DataError, match='detection annotations: "annotations" is missing'):
        small(noise(40, 60), {"image_id": 1})
    with pytest.raises(DataError, match='panoptic annotations: "segments_info" is missing'):
        small(noise(40, 60), {"file_name": "a"}, masks_path=tmp_path, format="coco_panoptic")


def test_ids_come_back_from_colours() -> None:
    ids = np.random.default_rng(0).integers(0, 2**24, (5, 7)).astype(np.int32)
    colours = encode_ids(ids)
    np.testing.assert_array_equal(rgb_to_id(colours), ids)
    assert rgb_to_id([1, 2, 3]) == 1 + 2 * 256 + 3 * 65536


def test_a_batch_is_padded_later_as_in_a_call(small: DetrImageProcessor) -> None:
    images = [noise(40, 60), noise(60, 40)]
    objects = [
        {"category_id": 1, "area": 1.0, "bbox": [1, 2, 9, 8], "segmentation": [[1, 2, 9, 2, 9, 8]]}
    ]
    annotations = [{"image_id": n, "annotations": objects} for n in range(2)]
    call: dict[str, Any] = {"return_segmentation_masks": True}
    for boxes in (True, False):
        apart = small(images, annotations, do_pad=False, do_convert_annotations=boxes, **call)
        together = small(
            images, annotations, do_convert_annotations=boxes, return_tensors="pt", **call
        )
        for kind in (small.pad, DetrFeatureExtractor().pad_and_create_pixel_mask):
            padded = kind(
                [torch.from_numpy(one) for one in apart.pixel_values],
                apart.labels,
                update_bboxes=boxes,
                return_tensors="pt",
            )
            for name in ("pixel_values", "pixel_mask"):
                assert torch.equal(padded[name], together[name])
            for one, other in zip(padded.labels, together.labels, strict=True):
                assert one.keys() == other.keys()
                assert all(torch.equal(one[name], other[name]) for name in other)


def test_what_a_batch_is_padded_with(small: DetrImageProcessor) -> None:
    images = [torch.rand(3, 120, 96), torch.rand(3, 96, 120)]
    padded = small.pad(images, return_tensors="pt")
    assert padded.pixel_values.shape == (2, 3, 120, 120)
    assert padded.pixel_mask.flatten(1).sum(1).tolist() == [11520, 11520]
    size = {"height": 130, "width": 140}
    padded = small.pad(images, constant_values=7, return_pixel_mask=False, pad_size=size)
    assert [one.shape for one in padded["pixel_values"]] == [(3, 130, 140)] * 2
    assert (padded["pixel_values"][0][:, 120:] == 7).all()
    assert "pixel_mask" not in padded
    with pytest.raises(UsageError, match="the images need"):
        small.pad(images, pad_size={"height": 9, "width": 9})
