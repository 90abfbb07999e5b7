from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast, get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image

from panodetr.cli import data as cli
from panodetr.cli import options
from panodetr.data.convert import TARGETS, Conversion, Target, convert_data
from panodetr.data.dataset import FORMATS, Dataset, Format, open_data, read_objects
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.masks import draw_mask
from panodetr.data.samples import AnySample, InstanceImage, ObjectTruth
from panodetr.errors import DataError, UsageError

from .conftest import panoptic_samples, read_strictly, write_image


def convert(folder: Path, out: Path, to: Target, *, split: str | None = None) -> Conversion:
    return convert_data(
        folder, out, to, class_name="blob", split=split, progress=lambda done, total: None
    )


def objects_of(data: Dataset) -> list[ObjectTruth]:
    samples = [sample for sample in data.samples if isinstance(sample, InstanceImage)]
    return [truth for sample in samples for truth in sample.objects]


def masks_of(sample: AnySample, *, crowds: bool = True) -> list[NDArray[np.bool_]]:
    assert isinstance(sample, InstanceImage)
    truths = [truth for truth in sample.objects if crowds or not truth["iscrowd"]]
    return [draw_mask(truth.get("segmentation", []), sample.size) for truth in truths]


def assert_same_masks(data: Dataset, other: Dataset) -> None:
    """The same images with the same objects, whatever their ids."""
    assert len(data.samples) == len(other.samples)
    for sample, its in zip(data.samples, other.samples, strict=True):
        assert sample.image_id == its.image_id
        assert sample.size == its.size
        assert sample.path.read_bytes() == its.path.read_bytes()
        one = read_objects(sample, data.index_of, with_masks=True)
        two = read_objects(its, other.index_of, with_masks=True)
        assert one.classes.tolist() == two.classes.tolist()
        assert one.ids is not None
        assert two.ids is not None
        for number, its_number in zip(one.segment_ids, two.segment_ids, strict=True):
            np.testing.assert_array_equal(one.ids == number, two.ids == its_number)


@pytest.mark.parametrize("to", TARGETS)
def test_id_maps_keep_every_pixel(id_folder: Path, tmp_path: Path, to: Target) -> None:
    made = convert(id_folder, tmp_path / "out", to)
    assert (made.format, made.images) == ("id-maps", 3)
    other = open_data(tmp_path / "out")
    assert other.format == to
    assert [category.name for category in other.categories] == ["cell"]
    assert_same_masks(open_data(id_folder), other)
    expected = {} if to == "coco-panoptic" else {"ids of objects in the id maps": 9}
    if to == "yolo":
        expected |= {
            "category ids: classes are numbered from 0": 1,
            "masks as they were written: an outline of the same pixels takes their place": 9,
        }
    assert made.lost == Counter(expected)
    if to == "coco-panoptic":
        for sample in panoptic_samples(tmp_path / "out", ""):
            ids = read_ids(sample)
            areas = {segment.id: segment.area for segment in sample.segments}
            assert areas == {number: (ids == number).sum() for number in (3, 7, 300)}


@settings(max_examples=10)
@given(
    st.lists(
        npst.arrays(
            np.uint16, st.tuples(st.integers(2, 14), st.integers(2, 14)),
            elements=st.sampled_from([0, 1, 2, 300]),
        ),
        min_size=1,
        max_size=2,
    )
)  # fmt: skip
def test_masks_and_boxes_survive_every_format(maps: list[NDArray[np.uint16]]) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for number, ids in enumerate(maps, start=1):
            write_image(root / "id-maps/images" / f"{number}.png", (ids.shape[0], ids.shape[1]))
            path = root / "id-maps/masks" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(ids).save(path)
        before = open_data(root / "id-maps", may_be_empty=True)
        for first in TARGETS:
            convert(root / "id-maps", root / first, first)
            for second in TARGETS:
                if second != first:
                    convert(root / first, root / first / second, second)
            for way in (root / first, *(root / first / second for second in TARGETS)):
                if way.is_dir():
                    after = open_data(way, format=cast("Format", way.name), may_be_empty=True)
                    assert_same_masks(before, after)
                    assert_boxes_are_tight(after)


def assert_boxes_are_tight(data: Dataset) -> None:
    """Boxes are exactly those of the masks, where the format writes any."""
    for sample in data.samples if data.format in ("coco-instances", "yolo") else ():
        assert isinstance(sample, InstanceImage)
        for truth, mask in zip(sample.objects, masks_of(sample), strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            x, y = columns[0], rows[0]
            assert truth["bbox"] == [x, y, columns[-1] + 1 - x, rows[-1] + 1 - y]


def test_yolo_to_coco_and_back_is_what_it_was(yolo_folder: Path, tmp_path: Path) -> None:
    made = convert(yolo_folder, tmp_path / "coco", "coco-instances")
    assert made.lost == Counter()
    assert made.splits == ["train", "val"]
    back = convert(tmp_path / "coco", tmp_path / "back", "yolo")
    assert set(back.lost) == {
        "fields of the JSON beyond those that training and evaluation read",
        "annotation ids, and areas other than the polygons'",
    }
    for split in ("train", "val"):
        before, after = (
            open_data(f, split, format="yolo", may_be_empty=True)
            for f in (yolo_folder, tmp_path / "back")
        )
        assert [c.name for c in before.categories] == [c.name for c in after.categories]
        assert_same_masks(before, after)
        for truth, its_truth in zip(objects_of(before), objects_of(after), strict=True):
            for key in ("bbox", "area"):
                np.testing.assert_allclose(truth[key], its_truth[key], atol=1e-2)


def test_boxes_survive_yolo(boxes_folder: Path, tmp_path: Path) -> None:
    made = convert(boxes_folder, tmp_path / "yolo", "yolo")
    assert made.lost["crowds"] == 1
    assert made.lost["category ids: classes are numbered from 0"] == 2
    convert(tmp_path / "yolo", tmp_path / "back", "coco-instances")
    before = json.loads((boxes_folder / "annotations/instances_val2017.json").read_text())
    after = json.loads((tmp_path / "back" / "instances_val.json").read_text())
    kept = [a for a in before["annotations"] if not a["iscrowd"]]
    assert [a["bbox"] for a in after["annotations"]] == [a["bbox"] for a in kept]
    assert [a["image_id"] for a in after["annotations"]] == [a["image_id"] for a in kept]
    with pytest.raises(DataError, match="has a box only; expected masks"):
        convert(boxes_folder, tmp_path / "panoptic", "coco-panoptic")
    assert not (tmp_path / "panoptic").exists()  # whole or not at all


@st.composite
def near_halves(draw: st.DrawFn) -> float:
    """Where COCO's rule, which rounds, takes another pixel at the slightest change."""
    return draw(st.integers(1, 59)) / 2 + draw(st.integers(-60, 60)) / 10**5


@settings(max_examples=20)
@example([(10.49996, 10.49996), (20.49996, 10.49996), (20.49996, 20.49996)])
@given(st.lists(st.tuples(near_halves(), near_halves()), min_size=3, max_size=8))
def test_polygons_between_pixels_fill_the_same_after_coco(
    polygon: list[tuple[float, float]],
) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_image(root / "yolo/images/train/1.png", (30, 30), 1)
        (root / "yolo/labels/train").mkdir(parents=True)
        numbers = " ".join(f"{side / 30:.10g}" for point in polygon for side in point)
        (root / "yolo/labels/train/1.txt").write_text(f"0 {numbers}\n")
        (root / "yolo/data.yaml").write_text("train: images/train\nnames: [leaf]\n")
        convert(root / "yolo", root / "coco", "coco-instances")
        document = json.loads((root / "coco/instances_train.json").read_text())
        (after,) = document["annotations"]
        (before,) = objects_of(open_data(root / "yolo", may_be_empty=True))
        assert "segmentation" in before
        np.testing.assert_array_equal(
            draw_mask(after["segmentation"], (30, 30)), draw_mask(before["segmentation"], (30, 30))
        )
        assert after["bbox"] == pytest.approx(before["bbox"], abs=1e-5)


@settings(max_examples=20)
@given(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), st.data())
def test_boxes_are_the_same_after_yolo(size: tuple[int, int], data: st.DataObject) -> None:
    boxes: list[list[float]] = []
    for _ in range(data.draw(st.integers(1, 4))):
        (x0, x1), (y0, y1) = (  # COCO has two digits
            sorted(round(side * data.draw(st.floats(0, 1)), 2) for _ in range(2))
            for side in (size[1], size[0])
        )
        boxes.append([x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)])
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "coco/images").mkdir(parents=True)
        Image.new("L", (size[1], size[0])).save(root / "coco/images/1.png", compress_level=1)
        common = {"image_id": 1, "category_id": 7, "area": 1.0}
        document = {
            "images": [{"id": 1, "file_name": "1.png", "height": size[0], "width": size[1]}],
            "annotations": [{"id": n, "bbox": box, **common} for n, box in enumerate(boxes)],
            "categories": [{"id": 7, "name": "box"}],
        }
        (root / "coco/instances.json").write_text(json.dumps(document))
        convert(root / "coco", root / "yolo", "yolo")
        convert(root / "yolo", root / "back", "coco-instances")
        after = json.loads((root / "back/instances_train.json").read_text())
        assert [truth["bbox"] for truth in after["annotations"]] == boxes


def test_coco_instances_keep_their_masks_in_yolo(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "coco-instances"
    made = convert(folder, tmp_path / "yolo", "yolo")
    assert made.images == 158
    assert made.lost["crowds"] == 17
    assert made.lost["objects without a pixel"] == 0
    # Some that have several parts don't fill the same pixels when these are joined.
    assert sum(n for what, n in made.lost.items() if what.startswith("masks as they")) < 0.05 * 1372
    by_id = {sample.image_id: sample for sample in open_data(tmp_path / "yolo").samples}
    for sample in open_data(folder).samples[::8]:
        expected = masks_of(sample, crowds=False)
        np.testing.assert_equal(masks_of(by_id[sample.image_id]), expected)


def test_coco_instances_become_segments(shared_data: Path, tmp_path: Path) -> None:
    made = convert(shared_data / "coco-instances", tmp_path / "out", "coco-panoptic")
    samples = panoptic_samples(tmp_path / "out", "")
    segments = [segment for sample in samples for segment in sample.segments]
    hidden = made.lost["objects that lie below others with all their pixels"]
    assert len(segments) == 1389 - hidden
    assert made.lost["objects that lie below others with a part of their pixels"] > 300
    assert sum(segment.is_crowd for segment in segments) <= 17
    for sample in samples[::20]:
        read_ids(sample)  # what is listed is what is shown


@pytest.mark.parametrize("to", ["coco-instances", "yolo"])
def test_panoptic_things_keep_their_pixels(shared_data: Path, tmp_path: Path, to: Target) -> None:
    folder = shared_data / "coco-panoptic"
    made = convert(folder, tmp_path / "out", to)
    before = read_strictly(folder, "", "coco-panoptic")
    samples = panoptic_samples(folder, "")
    after = open_data(tmp_path / "out")
    names = {category.id: category.name for category in before.categories}
    its_names = {category.id: category.name for category in after.categories}
    things = {category.id for category in before.categories if category.is_thing}
    by_id = {sample.image_id: sample for sample in after.samples}
    segments = [segment for sample in samples for segment in sample.segments]
    assert made.lost["segments of stuff"] == sum(s.category_id not in things for s in segments)
    for sample in samples:
        its, ids = by_id[sample.image_id], read_ids(sample)
        kept = [
            segment
            for segment in sample.segments
            if segment.category_id in things and not (segment.is_crowd and to == "yolo")
        ]
        np.testing.assert_equal(masks_of(its), [ids == segment.id for segment in kept])
        assert isinstance(its, InstanceImage)
        found = [its_names[truth["category_id"]] for truth in its.objects]
        assert found == [names[segment.category_id] for segment in kept]


def test_what_makes_no_sense_is_refused(
    yolo_folder: Path, boxes_folder: Path, id_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is yolo data already"):
        convert(yolo_folder, tmp_path / "out", "yolo")
    with pytest.raises(UsageError, match="is there already"):
        convert(yolo_folder, boxes_folder, "coco-instances")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data set"):
        convert(tmp_path / "empty", tmp_path / "out", "yolo")
    (id_folder / "masks/cell/3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"3\.png cannot be read"):
        convert(id_folder, tmp_path / "out", "yolo")
    for part in ("annotations/instances_val2017.json", "val2017"):
        path = boxes_folder / part
        path.rename(path.with_name(path.name.replace("val2017", "mine")))
    with pytest.raises(DataError, match=r"split 'mine' has no place in data\.yaml"):
        convert(boxes_folder, tmp_path / "out", "yolo")
    other = yolo_folder / "images/train/more"
    other.mkdir()
    (yolo_folder / "images/train/000000000009.jpg").rename(other / "000000000007.jpg")
    with pytest.raises(DataError, match="have one name; rename one"):
        convert(yolo_folder, tmp_path / "out", "coco-instances")
    assert not (tmp_path / "out").exists()
    made = convert(yolo_folder, tmp_path / "out", "coco-panoptic", split="val")  # whole
    assert made.splits == ["val"]
    assert not (tmp_path / "out" / "panoptic_train.json").exists()


@pytest.mark.parametrize("to", ["yolo", "coco-panoptic"])
def test_two_images_of_one_image_are_refused(
    boxes_folder: Path, tmp_path: Path, to: Target
) -> None:
    path = boxes_folder / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    document["images"].append(document["images"][0] | {"id": 9})
    for truth in document["annotations"]:
        truth["segmentation"] = [[2, 2, 9, 2, 9, 9]]
        truth["iscrowd"] = 0
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"1\.png is the file of two images; copy it") as caught:
        convert(boxes_folder, tmp_path / "out", to)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_formats_are_what_the_command_offers() -> None:
    assert get_args(options.Format) == FORMATS
    assert get_args(cli.Target) == TARGETS
