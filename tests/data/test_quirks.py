"""Data as people have it: what each folder of `../shared/data/quirks` must be read as."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from panodetr.data.check import check_split
from panodetr.data.dataset import Source, open_data
from panodetr.data.masks import draw_mask
from panodetr.data.samples import InstanceImage, ObjectTruth, read_sample
from panodetr.data.tree import read_file
from panodetr.errors import DataError
from panodetr.evaluation.evaluate import score
from panodetr.evaluation.ground_truth import GroundTruth, written_id
from panodetr.evaluation.metrics import metrics

from .conftest import write_image


@dataclass(frozen=True)
class Reading:
    """What a folder must be read as: each split's images and objects, classes, and notes."""

    splits: dict[str, tuple[int, int]]
    classes: tuple[str, ...]
    masks: bool = True
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict[str, str])


R = Reading
ROOT = "a class without objects that stands above all others is none"
ONE = {"": (3, 6)}
BOTH = {"train": (2, 4), "val": (2, 4)}
ALL = {"train": (2, 4), "val": (2, 4), "test": (2, 4)}

QUIRKS: dict[str, Reading] = {
    "all-photos-absent": R({}, (), refused={"train": r"0 of 3 images .*picture0_jpg\.rf\.a12"}),
    "box-a-little-outside": R(ONE, ("wall",), masks=False, notes=("2 boxes reach out",)),
    "boxes-are-corners": R({}, (), refused={"": "are they corners x0, y0, x1, y1"}),
    "coco-custom-names": R({"train": (3, 6), "val": (1, 2)}, ("on", "off"), masks=False),
    "coco-images-train2017": R({"train2017": (3, 6), "val2017": (2, 4)}, ("person", "cup")),
    "coco-json-in-split": R(
        {"train": (3, 6), "val": (1, 2), "test": (1, 2)}, ("Bird",), masks=False
    ),
    "cvat-brush-all-crowd": R(ONE, ("open", "closed"), notes=("all 6 objects are crowds",)),
    "cvat-default": R(ONE, ("part",)),
    "cvat-subset-folders": R({"train": (3, 6), "val": (2, 4)}, ("smoke", "fire"), masks=False),
    "cvat-subsets-flat": R({"train": (3, 6), "val": (2, 4)}, ("streak",), masks=False),
    "darknet": R({"train": (3, 6)}, ("truck", "car"), masks=False),
    "dsb2018": R({"stage1_train": (3, 6)}, ("object",)),
    "hf-metadata-jsonl": R({"train": (2, 4)}, ("0", "1"), masks=False, notes=("numbers",)),
    "exif-mirrored-cvat": R({"": (1, 1)}, ("disc",), notes=("taken as it is shown, say",)),
    "exif-turned-via": R({"train": (1, 1)}, ("object",), notes=("taken as it is stored, say",)),
    "json-size-wrong": R(ONE, ("nut",), notes=("3 images another size",)),
    "label-studio-beside-masks": R(ONE, ("wall", "window")),
    "label-studio-coco": R(ONE, ("desk", "chair")),
    "label-studio-moved": R(ONE, ("moon", "star"), masks=False),
    "label-studio-yolo": R(ONE, ("belt", "wheel"), masks=False),
    "label-studio-yolo-renamed": R(ONE, ("belt", "wheel"), masks=False),
    "labelme": R({"": (3, 8)}, ("leaf", "stem"), notes=("1 shapes are labelled __ignore__",)),
    "labelme-voc-coco": R({"": (2, 4)}, ("_background_", "bus", "car")),
    "labelme-windows-path": R(ONE, ("spot",)),
    "labelme2coco-trainval": R(ONE, ("fig", "nut")),
    "nested-objects": R({"": (1, 5)}, ("wall", "window")),
    "one-box-among-masks": R({"train": (4, 8)}, ("flake",), notes=("1 of 8 objects", ROOT)),
    "panoptic-mixed-layout": R({"train": (2, 4)}, ("thing", "floor"), notes=("2 images; mea",)),
    "panoptic-other-folders": R({"examples": (2, 4)}, ("thing", "floor")),
    "panoptic-photos-png-in-json": R({"train": (2, 4)}, ("thing", "floor")),
    "photos-in-class-folders": R({"": (4, 8)}, ("alpha", "beta")),
    "repeated-unused-class": R(
        {"train2017": (2, 4), "test2017": (1, 2)}, ("dog", "soup", "rice"),
        notes=("1 classes repeat the name of another",),
    ),
    "repeated-used-class": R({}, (), refused={"": "'soup': 1 and 2 both have objects"}),
    "rf-coco-folder": R(
        {"train": (3, 6), "val": (2, 4), "test": (1, 2)}, ("round", "long"), masks=False,
        notes=(ROOT,),
    ),
    "rf-darknet": R(ALL, ("lime",), masks=False),
    "rf-no-root": R(BOTH, ("ball", "hand", "figure"), masks=False),
    "rf-number-strings": R(BOTH, ("leaf",), notes=(ROOT,)),
    "rf-root-same-name": R({"train": (2, 4), "val": (1, 2)}, ("cell",), notes=(ROOT,)),
    "rf-size-off-by-one": R(BOTH, ("flake",), notes=("1 images another size", ROOT)),
    "rf-some-photos-absent": R(
        {"train": (3, 6), "val": (2, 4)}, ("nut",), notes=("listed images are not there", ROOT)
    ),
    "split-json-of-other-photos": R(
        {"train": (3, 6)}, ("mite",), masks=False, notes=("2 of 6 objects have masks", ROOT),
        refused={"val": "0 of 3 images"},
    ),
    "via1": R({"train": (2, 3), "val": (1, 2)}, ("ball",)),
    "via1-no-labels": R({"train": (2, 4), "val": (1, 2)}, ("object",), notes=("no region has a",)),
    "voc-masks-colour": R({"": (2, 4)}, ("tool",)),
    "voc-masks-palette": R({"": (2, 4)}, ("bus", "car")),
    "voc-xml": R({"train": (2, 2), "val": (1, 2)}, ("Bottle",), masks=False,
                 notes=("1 boxes reach out of their images by a little",)),
    "yolo-all-of-unknown-class": R({}, (), refused={"train": "all 4 lines .* class 20, names lis"}),
    "yolo-boxes-and-few-polygons": R(
        {"train": (3, 9), "val": (3, 9)}, ("bug -pest-",), masks=False,
        notes=("1 of 9 objects have masks, which are not read",),
    ),
    "yolo-config-yaml-below": R({"train": (3, 6), "val": (3, 6)}, ("Ball",), masks=False),
    "yolo-few-bad-lines": R(
        {"train": (5, 9)}, ("truck",), masks=False, notes=("1 boxes reach far out",),
        faults=(r"train_1\.txt:3 has class 4",),
    ),
    "yolo-folder-image": R(BOTH, ("bad", "good"), masks=False, notes=("test, which is not ther",)),
    "yolo-folder-image-corrected": R(BOTH, ("bad", "good"), masks=False),
    "yolo-no-yaml": R(ALL, ("0", "1"), masks=False, notes=("called by their numbers",)),
    "yolo-orphan-label": R(BOTH, ("cat",), notes=("1 label files have no image",)),
    "yolo-posix-path": R(BOTH, ("key",), masks=False),
    "yolo-repeated-lines": R(BOTH, ("ball",), masks=False, notes=("2 lines repeat another",)),
    "yolo-train-without-labels": R(
        {"val": (2, 4)}, ("stem",), masks=False,
        refused={"train": "no label file for any of the 2 images"},
    ),
    "yolo-val-named-but-absent": R(
        {"train": (2, 4)}, ("book",), masks=False, notes=("for val, which is not there",)
    ),
    "yolo-valid-called-validate": R(
        {"train": (2, 4), "val": (2, 4), "test": (1, 2)}, ("ship",), masks=False,
        faults=(r"test_0\.txt:1 has class 3",),
    ),
    "yolo-windows-path": R(ALL, ("cell",), masks=False),
    "yolo-yaml-other-name": R(BOTH, ("CAT", "DOG")),
    "cases/A1/input": R({"train": (2, 29), "val": (2, 81)}, ("nucleus", "background"),
                        notes=("2 categories have no colour",)),
    "cases/A2/input": R({"train": (2, 3), "val": (2, 3)}, ("blob",), notes=(ROOT,)),
    "cases/A2/input-root-other-name": R({"train": (2, 3), "val": (2, 3)}, ("blob",), notes=(ROOT,)),
    "cases/A2/input-yolo": R({"train": (1, 1), "val": (1, 1)}, ("blob",), masks=False,
                             notes=("1 classes repeat the name",)),
    "cases/A3/input": R({"train": (3, 3), "val": (2, 2), "test": (1, 1)}, ("blob",), notes=(ROOT,)),
    "cases/A4/input": R({"train": (2, 2)}, ("blob",)),
    "cases/A4/input-coco-images": R({"train2017": (2, 2)}, ("blob",)),
    "cases/A4/input-default": R({"": (2, 2)}, ("blob",)),
    "cases/A4/input-default-flat": R({"": (2, 2)}, ("blob",)),
    "cases/A4/input-panoptic-beside": R({"train2017": (1, 2)}, ("blob", "ground")),
    "cases/A4/input-train-lower": R({"train": (2, 2)}, ("blob",)),
    "cases/A5/input": R({"": (2, 2)}, ("blob",)),
    "cases/A8/input": R({"": (2, 2)}, ("blob",)),
    "cases/A8/input-mixed": R({"": (2, 2)}, ("blob",)),
    "cases/A13/input": R({"": (2, 10)}, ("blob",), notes=("1 of 10 objects have no mask",)),
    "cases/A14/input": R({"train": (3, 3), "val": (3, 3)}, ("blob",), notes=("1 of 3 objects",)),
    "cases/A15/input": R({"": (1, 2)}, ("blob",), notes=("all 2 objects are crowds",)),
    **{f"cases/A19/input{more}": R({"train": (1, 1), "val": (1, 1)}, ("blob",))
       for more in ("", "-no-val", "-val-moved", "-valid")},
    **{f"cases/A20/input{more}": R({"train": (2, 2)}, ("blob",))
       for more in ("", "-labels", "-utf16", "-yaml")},
    "cases/A20/input-json": R({"": (1, 1)}, ("blob",)),
    **{f"cases/A23/input{more}": R({"train": (1, 1)}, ("blob",), masks=False)
       for more in ("", "-1x2", "-5x3", "-8x3")},
    **{f"cases/A25/input{more}": R({"train": (1, 2)}, names)
       for more, names in {
           "": ("yes", "no"), "-on-off": ("on", "off"), "-y-n": ("Y", "N"),
           "-number": ("1.10", "007"), "-null": ("null", "None"), "-null-plain": ("null", "a"),
           "-nan": (".nan", "~"), "-date": ("2024-01-02", "1e3"),
       }.items()},
    "cases/A26/input": R({"train": (1, 1), "val": (1, 1)}, ("blob",)),
    "cases/A26/input-coco": R({"train": (1, 1)}, ("blob",)),
    "cases/A26/input-maps": R({"": (1, 1)}, ("object",)),
    "cases/A26/input-maps-both": R({"": (1, 1)}, ("object",)),
    "cases/A26/input-maps-class": R({"": (1, 1)}, ("nucleus",)),
    **{f"cases/A30/input{more}": R({"": (1, 2)}, ("object",))
       for more in ("", "-bigtiff-deflate", "-deflate-predictor", "-float64", "-int32", "-int64",
                    "-minus-one", "-stack", "-uint16", "-uint32")},
    "cases/A30/input-half": R({}, (), refused={"": "has fractions"}),
    "cases/A32/input": R({}, (), refused={"": "run lengths don't fill it"}),
    "cases/A32/input-as-polygon": R({"": (1, 1)}, ("blob",), masks=False,
                                    notes=("1 masks have no pixel",)),
    **{f"cases/B1/input{more}": R({"": images}, ("nucleus",), notes=(note,) if note else ())
       for more, images, note in (
           ("", (1, 21), "EXIF turns 1 images, whose annotations are for the stored"),
           ("-12", (12, 252), "EXIF turns 12 images, whose"),
           ("-o1", (1, 21), ""),
           ("-o2", (1, 21), "taken as it is shown, say"),
           ("-o3", (1, 21), "taken as it is shown, say"),
           ("-square-o1", (1, 15), ""),
           ("-square-o6", (1, 15), "taken as it is shown, say"),
           ("-turned", (1, 21), ""),
       )},
    "cases/B1/input-panoptic": R({"val": (1, 22)}, ("nucleus", "background"),
                                 notes=("EXIF turns 1 images, whose",)),
    "cases/B1/input-panoptic-o1": R({"val": (1, 22)}, ("nucleus", "background")),
    "cases/D4/input": R({"": (1, 150)}, ("nucleus",)),
    "cases/D9/input": R({"": (19, 19)}, ("blob",), notes=("1 of 20 listed images are not there",)),
    "cases/D9/input-bad-annotation": R({"": (19, 19)}, ("blob",), faults=(r"bbox\[2\]: expected",)),
    "cases/D9/input-broken": R({"": (20, 20)}, ("blob",), faults=("p7.png: the image is broken",)),
    "cases/D9/input-yolo": R({"train": (19, 19)}, ("blob",), masks=False, faults=("p7.txt:1 is",)),
    "cases/E3/input": R({"": (1, 150)}, ("blob",)),
    **{f"cases/X2/input{more}": R({"train": (1, 1), "val": (1, 1)}, ("blob",))
       for more in ("", "-training", "-valid", "-validation")},
    "cases/X3/input": R({"train": (1, 2)}, ("blob", "ground"), notes=("1 images; measured",)),
    "cases/X3/input-color-null": R({"train": (1, 2)}, ("blob", "ground"), notes=("made up",)),
    "cases/X3/input-no-iscrowd": R({"train": (1, 2)}, ("blob", "ground")),
    "cases/X3/input-no-isthing": R({}, (), refused={"train": "missing required field isthing"}),
    **{f"cases/X4/input{more}": R({"": (1, 1)}, ("blob",))
       for more in ("", "-box-text", "-crowd-bool", "-crowd-null", "-extra-image-key",
                    "-size-text")},
}  # fmt: skip


@pytest.fixture
def quirks(shared_data: Path) -> Path:
    return shared_data / "quirks"


@pytest.mark.parametrize("name", QUIRKS)
def test_data_as_people_have_it_is_read(quirks: Path, name: str) -> None:
    folder = quirks / name if name.startswith("cases") else quirks / name / "data"
    expected = QUIRKS[name]
    source = Source(folder)
    format, splits = source.splits(None)
    assert set(splits) == {*expected.splits, *expected.refused}
    notes: list[str] = []
    faults: list[str] = []
    for split in splits:
        found = check_split(source, split, format, lambda done, total: None)
        if split in expected.refused:
            assert found.errors > 0
            with pytest.raises(DataError, match=expected.refused[split]):
                open_data(folder, split)
            continue
        data = open_data(folder, split)
        shown = (len(data.samples), found.objects.total())
        assert shown == expected.splits[split]
        assert tuple(category.name for category in data.categories) == expected.classes
        assert data.has_masks == expected.masks
        notes += [f.message for f in found.findings if not f.is_error]
        faults += [f.message for f in found.findings if f.is_error]
    for text in expected.notes:
        assert any(text in note for note in notes), (text, notes)
    for text in expected.faults:
        assert any(re.search(text, fault) for fault in faults), (text, faults)
    assert bool(faults) == bool(expected.faults), faults


@pytest.mark.parametrize(
    "name",
    ["rf-coco-folder", "panoptic-other-folders", "yolo-no-yaml", "darknet", "label-studio-yolo",
     "yolo-windows-path", "voc-xml", "voc-masks-colour", "labelme", "via1", "hf-metadata-jsonl"],
)  # fmt: skip
def test_an_annotation_file_is_opened_once_for_all_splits(
    quirks: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[Path] = Counter()

    def count(path: Path) -> bytes:
        opened[path] += 1
        return read_file(path)

    monkeypatch.setattr("panodetr.data.tree.read_file", count)
    source = Source(quirks / name / "data")
    format, splits = source.splits(None)
    for split in splits:
        check_split(source, split, format, lambda done, total: None)
    assert set(opened.values()) == {1}


def test_ids_that_are_texts_are_those_of_results(quirks: Path) -> None:
    folder = quirks / "cases/A8/input"
    truth = GroundTruth.read(folder / "instances.json")
    assert [written_id(image) for image in truth.images] == ["a-01", "b-02"]
    report = metrics(score(folder / "results.json", truth).compute())
    assert isinstance(report["boxes"], dict)
    assert report["boxes"]["ap"] == 1


def test_a_single_pair_is_no_data_set_and_the_layout_is_told(quirks: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"images/ and masks/ with one id map an image; it has 2 images in the folder",
    ):
        open_data(quirks / "pair-img-mask" / "data")


def objects_of(folder: Path, split: str | None = None) -> list[ObjectTruth]:
    samples = open_data(folder, split).samples
    return [t for s in samples if isinstance(s, InstanceImage) for t in s.objects]


def pixels_of(folder: Path, split: str | None = None) -> list[int]:
    return [
        int(draw_mask(truth["segmentation"], sample.size).sum())
        for sample in open_data(folder, split).samples
        if isinstance(sample, InstanceImage)
        for truth in sample.objects
        if "segmentation" in truth
    ]


@pytest.mark.parametrize(
    ("name", "areas"),
    [
        ("A2/input", [600, 600, 1200]),
        ("A4/input", [600, 1200]),
        ("A5/input", [600, 1200]),
        ("A10/input", [600, 400]),
        ("A10/input-none", [600, 400]),
        ("A10/input-null", [600, 400]),
        ("A10/input-zero", [600, 400]),
        ("A12/input", [300, 600]),
        ("A12/input-2-numbers", [300, 600]),
        ("A12/input-empty-and-good", [300, 600]),
        ("A13/input", [168] * 10),
        ("A14/input", [320, 236, 480]),
        ("A15/input", [600, 600]),
        ("A20/input-utf16", [320, 320]),
        ("cvat-brush-all-crowd", [210, 165, 130, 132, 144, 120]),
    ],
)
def test_masks_have_the_pixels_that_pycocotools_counts(
    quirks: Path, name: str, areas: list[int]
) -> None:
    if name.startswith("cvat"):
        assert len(pixels_of(quirks / name / "data")) == len(areas)
    else:
        assert pixels_of(quirks / "cases" / name) == areas


def test_boxes_areas_and_ids_are_measured_where_they_are_missing(quirks: Path) -> None:
    (polygon,) = objects_of(quirks / "cases/A9/input-polygon")
    (box,) = objects_of(quirks / "cases/A9/input")
    assert (polygon["area"], box["area"], box["iscrowd"]) == (300, 600, 0)
    (kept, _) = objects_of(quirks / "cases/A12/input-empty-ring")
    assert kept["bbox"] == [10, 10, 20, 30]
    (text,) = objects_of(quirks / "cases/X4/input-box-text")
    assert (text["bbox"], text["category_id"]) == ([10, 10, 30, 20], 1)
    bare = objects_of(quirks / "cases/A13/input")[4]
    assert (bare["bbox"], bare.get("segmentation")) == (
        [77, 18, 14, 12],
        [[77, 18, 91, 18, 91, 30, 77, 30]],
    )


@pytest.mark.parametrize("name", ["exif-mirrored-cvat", "exif-turned-via"])
def test_turned_images_are_read_in_the_frame_of_their_annotations(quirks: Path, name: str) -> None:
    (sample,) = open_data(quirks / name / "data").samples
    assert isinstance(sample, InstanceImage)
    (truth,) = sample.objects
    assert "segmentation" in truth
    mask = draw_mask(truth["segmentation"], sample.size)
    pixels = read_sample(sample).mean(axis=2)
    assert pixels[mask].mean() > 2 * pixels[~mask].mean()


def test_a_setting_says_the_frame_where_sizes_do_not(quirks: Path) -> None:
    (stored,) = open_data(quirks / "exif-mirrored-cvat" / "data", exif="stored").samples
    (shown,) = open_data(quirks / "exif-turned-via" / "data", exif="shown").samples
    assert (stored.as_stored, shown.as_stored) == (True, False)
    (told,) = open_data(quirks / "cases/B1/input", exif="shown").samples
    assert told.as_stored


def test_stored_images_are_those_of_a_file_without_orientation(quirks: Path) -> None:
    (turned,) = open_data(quirks / "cases/B1/input").samples
    (plain,) = open_data(quirks / "cases/B1/input-o1").samples
    np.testing.assert_array_equal(read_sample(turned), read_sample(plain))


@pytest.mark.parametrize("form", ["", "-1x2", "-5x3", "-8x3"])
def test_rows_with_keypoints_are_boxes(quirks: Path, form: str) -> None:
    (truth,) = objects_of(quirks / f"cases/A23/input{form}")
    assert truth["bbox"] == [40, 32, 20, 16]
    assert "segmentation" not in truth


def test_boxes_of_voc_count_from_one_and_are_cut(quirks: Path) -> None:
    truths = objects_of(quirks / "voc-xml" / "data", "val")
    assert [truth["bbox"] for truth in truths] == [[9, 35, 16, 13], [52, 12, 9, 11]]


def test_links_are_followed_where_they_lead(quirks: Path, tmp_path: Path) -> None:
    for name, link, target, count in (
        ("input", "set/images/train/a", "elsewhere/a", 3),
        ("input-top", "images/train", "elsewhere", 1),
    ):
        folder = tmp_path / name
        shutil.copytree(quirks / "cases/A27" / name, folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        (folder / link).unlink()
        (folder / link).symlink_to(folder / target, target_is_directory=True)
        data = open_data(folder / "set" if (folder / "set").exists() else folder)
        assert len(data.samples) == count
        (folder / target / "again").symlink_to(folder, target_is_directory=True)  # without end
        assert len(open_data(data.folder).samples) >= count


def test_links_with_too_many_ways_to_a_folder_are_refused(tmp_path: Path) -> None:
    for depth in range(10):
        (tmp_path / str(depth)).mkdir()
        for link in range(10):  # 10 to the 10th ways
            (tmp_path / str(depth) / f"a{link}").symlink_to(tmp_path / str(depth + 1))
    with pytest.raises(DataError, match=r"links lead to .* in more than 100 ways"):
        open_data(tmp_path)


def test_copies_of_an_image_are_one_and_other_files_of_its_name_are_two(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 1, "file_name": "p.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "marks.json").write_text(json.dumps(document))
    write_image(tmp_path / "one" / "p.png", (20, 30))
    write_image(tmp_path / "two" / "p.png", (20, 30))
    write_image(tmp_path / "train_masks" / "p.png", (20, 30), 5)
    assert open_data(tmp_path).samples[0].path == tmp_path / "one" / "p.png"
    write_image(tmp_path / "two" / "p.png", (20, 30), 1)
    with pytest.raises(DataError, match=r"which may be .*one/p\.png or .*two/p\.png"):
        open_data(tmp_path)


def test_crowds_alone_are_nothing_to_learn_from_wherever_it_is_asked(tmp_path: Path) -> None:
    crowd = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 1}
    document = {
        "images": [{"id": 1, "file_name": "p.png"}],
        "annotations": [crowd | {"segmentation": [[1, 1, 6, 1, 6, 6]]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "marks.json").write_text(json.dumps(document))
    write_image(tmp_path / "p.png", (20, 30))
    with pytest.raises(DataError, match="no object to learn from in 1 images; 1 crowds") as caught:
        open_data(tmp_path)
    found = check_split(tmp_path, "", "coco-instances", lambda done, total: None)
    assert [f.message for f in found.findings if f.is_error] == [str(caught.value)]
