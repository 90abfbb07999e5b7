from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panodetr.data import loader
from panodetr.data.augment import CropAugmentation
from panodetr.data.loader import CropReader
from panodetr.data.panoptic import PanopticData

SIZES = ((20, 20), (40, 40), (16, 24))


@pytest.fixture
def data(tmp_path: Path) -> PanopticData:
    """Three photos of one grey each, with a square of class 5 in their upper left corners."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, (height, width) in enumerate(SIZES, start=1):
        name = f"{number}.png"
        ids = np.zeros((height, width, 3), np.uint8)
        ids[:8, :8, 0] = number
        for folder, pixels in (("some", np.full_like(ids, 10 * number)), ("panoptic_some", ids)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / name)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        segments = [{"id": number, "category_id": 5, "area": 64, "iscrowd": 0}]
        annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
    categories = [{"id": 5, "name": "square", "isthing": 1, "color": [1, 2, 3]}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "panoptic_some.json").write_text(json.dumps(document))
    return PanopticData.open(tmp_path, "some")


def test_a_number_gives_the_same_crop_whatever_came_before(data: PanopticData) -> None:
    augmentation = CropAugmentation(size=12, least_scale=0.7, most_scale=1.5, color=0.2)
    reader = CropReader(data, augmentation, seed=3)
    crops = [reader.crop(number) for number in range(20)]
    for number in (17, 4, 4):
        photo, target = CropReader(data, augmentation, seed=3).crop(number)
        np.testing.assert_array_equal(photo, crops[number][0])
        np.testing.assert_array_equal(target.ids, crops[number][1].ids)
        np.testing.assert_array_equal(target.boxes, crops[number][1].boxes)


def test_seeds_give_other_crops(data: PanopticData) -> None:
    crops = [
        [CropReader(data, CropAugmentation(size=12), seed).crop(n)[1].ids for n in range(10)]
        for seed in (1, 2)
    ]
    assert any(not np.array_equal(a, b) for a, b in zip(*crops, strict=True))


def test_photo_and_objects_belong_together(data: PanopticData) -> None:
    reader = CropReader(data, CropAugmentation(size=64, flip=False), seed=0)
    for number in range(10):
        photo, target = reader.crop(number)
        image = int(photo[0, 0, 0]) // 10
        assert target.ids.shape == photo.shape[:2] == SIZES[image - 1]
        assert target.segment_ids.tolist() == [image]
        assert target.classes.tolist() == [0]
        assert target.boxes.tolist() == [[0, 0, 8, 8]]


def test_large_photos_are_drawn_more_often_by_the_root_of_their_area(data: PanopticData) -> None:
    reader = CropReader(data, CropAugmentation(size=64, flip=False), seed=0)
    drawn = [int(reader.crop(number)[0][0, 0, 0]) // 10 - 1 for number in range(600)]
    share = np.bincount(drawn, minlength=3) / len(drawn)
    sides = np.sqrt([height * width for height, width in SIZES])
    np.testing.assert_allclose(share, sides / sides.sum(), atol=0.06)


def test_files_are_read_once(data: PanopticData) -> None:
    reader = CropReader(data, CropAugmentation(size=12), seed=0)
    before = [reader.crop(number)[0] for number in range(30)]
    for sample in data.samples:
        sample.photo.unlink()
        sample.id_map.unlink()
    for number, photo in enumerate(before):
        np.testing.assert_array_equal(reader.crop(number)[0], photo)


def test_memory_for_photos_is_bounded(data: PanopticData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "CACHED_PIXELS", 0)
    reader = CropReader(data, CropAugmentation(size=12), seed=0)
    reader.crop(0)
    for sample in data.samples:
        sample.photo.unlink()
    with pytest.raises(ValueError, match=r"\d\.png"):
        reader.crop(0)
