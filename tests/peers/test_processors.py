"""Preprocessing, labels and files against transformers' own processor.

transformers' tests of its processor cover the options, the forms of images and annotations, the
sizes, the files and the errors that are compared here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.compat.conftest import noise
from transformers import AutoImageProcessor
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import AnnotationFormat
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from panodetr.compat import DetrImageProcessor
from panodetr.compat.options import ProcessorOptions
from panodetr.errors import ImageError, UsageError

pytestmark = pytest.mark.parity

SIZE = {"shortest_edge": 48, "longest_edge": 80}
CALL = ("masks_path", "return_segmentation_masks")
CONFIG = "preprocessor_config.json"
THEIRS: Any = DetrImageProcessorPil
KINDS: Any = (DetrImageProcessor, THEIRS)
LEVEL = 1 / 255 / 0.224  # one grey level, after normalising with the least deviation


def both(*inputs: Any, size: Any = SIZE, format: str = "coco_detection", **options: Any) -> Any:
    """Give what our processor and theirs make of the same inputs."""
    call = {k: options.pop(k) for k in CALL if k in options}
    return [
        kind(size=size, format=format, **options)(*inputs, return_tensors="pt", **call)
        for kind in KINDS
    ]


def same(ours: Any, theirs: Any, *, tolerance: float = LEVEL) -> None:
    assert torch.equal(ours["pixel_mask"], theirs["pixel_mask"])
    torch.testing.assert_close(
        ours["pixel_values"], theirs["pixel_values"].float(), rtol=0, atol=tolerance
    )
    if "labels" not in theirs:
        return
    for one, other in zip(ours["labels"], theirs["labels"], strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert one[name].shape == value.shape, name
            torch.testing.assert_close(
                one[name].float(), value.float(), rtol=1e-5, atol=1e-6, msg=name
            )
            assert one[name].is_floating_point() == value.is_floating_point(), name


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_size_rule(height: int, width: int) -> None:
    expected = get_size_with_aspect_ratio((height, width), 800, 1333)
    assert ProcessorOptions().target_size((height, width)) == expected


@pytest.mark.parametrize("step", ["do_resize", "do_rescale", "do_normalize", "do_pad"])
def test_a_step_that_is_none_in_the_constructor_is_left_out(step: str, tmp_path: Path) -> None:
    off: dict[str, Any] = {step: None}
    found, expected = both(noise(40, 60), do_convert_annotations=False, **off)
    assert found.keys() == expected.keys()
    kind = expected["pixel_values"].dtype
    torch.testing.assert_close(found["pixel_values"].to(kind), expected["pixel_values"])
    for kind in KINDS:
        kind(**off).save_pretrained(tmp_path)
        assert all(getattr(each.from_pretrained(tmp_path), step) is None for each in KINDS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"height": 40, "width": 72}},
        {"size": {"max_height": 50, "max_width": 60}},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"do_resize": False},
        {"pad_size": {"height": 90, "width": 100}},
        {"pad_size": 100},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.3]},
    ],
)
def test_images_under_every_option(options: dict[str, Any]) -> None:
    images = [Image.fromarray(noise(60, 90)), Image.fromarray(noise(70, 50))]
    ours, theirs = both(images, **options)
    same(ours, theirs, tolerance=1.001 if not options.get("do_rescale", True) else LEVEL)


def annotated(box: list[float], polygons: Any, points: list[int], **changes: Any) -> dict[str, Any]:
    area = {"category_id": 3, "area": 300.0, "iscrowd": 0}
    return {**area, "bbox": box, "segmentation": polygons, "keypoints": points, **changes}


OBJECTS: dict[str, Any] = {
    "image_id": 5,
    "annotations": [
        annotated(
            [10.0, 5.0, 20.5, 30.0],
            [[10, 5, 30.5, 5, 30.5, 35, 10, 35]],
            [12, 7, 2, 20, 30, 1],
        ),
        annotated(
            [80.0, 50.0, 30.0, 30.0],  # out of the image
            [[80, 50, 89, 50, 89, 59], [1, 1, 5, 1, 5, 9]],
            [81, 51, 2, 85, 55, 2],
            category_id=8,
            area=50.0,
        ),
        annotated([4.0, 4.0, 0.0, 3.0], [[4, 4, 4, 7, 4, 7]], [4, 4, 0, 4, 4, 0]),  # empty
        annotated(
            [0.0, 0.0, 30.0, 30.0], {"size": [60, 90], "counts": [0, 5400]}, [0] * 6, iscrowd=1
        ),
    ],
}
NOTHING = {"image_id": 6, "annotations": []}


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("options", [{}, {"do_convert_annotations": False}, {"do_resize": False}])
def test_detection_labels(masks: bool, options: dict[str, Any]) -> None:
    images, annotations = [noise(60, 90), noise(90, 60)], [OBJECTS, NOTHING]
    if masks:  # transformers cannot resize an empty list of masks
        images, annotations = [noise(60, 90), noise(60, 120)], [OBJECTS, OBJECTS]
    same(*both(images, annotations, return_segmentation_masks=masks, **options))
    arrays = [
        {k: np.array(v) if k in ("bbox", "keypoints") else v for k, v in one.items()}
        for one in OBJECTS["annotations"]
    ]
    same(*both(images[0], {"image_id": 5, "annotations": arrays}, **options))


def test_panoptic_labels(official: Any) -> None:
    image = Image.open(official.image).convert("RGB")
    taller = Image.fromarray(noise(image.height, image.width)).rotate(90, expand=True)
    panoptic = {"format": "coco_panoptic", "masks_path": official.folder}
    same(*both([image], official.annotation, **panoptic))
    same(*both([image, taller], **panoptic))


def test_panoptic_labels_in_a_padded_batch(tmp_path: Path) -> None:
    ids = np.zeros((60, 90, 3), np.uint8)
    ids[10:30, 20:50, 0], ids[40:, :, 1] = 7, 3
    Image.fromarray(ids).save(tmp_path / "a.png")
    Image.fromarray(ids.transpose(1, 0, 2)).save(tmp_path / "b.png")
    segments = [
        {"id": 7, "category_id": 2, "iscrowd": 0, "area": 600},
        {"id": 3 * 256, "category_id": 5, "iscrowd": 1, "area": 1800},
    ]
    annotations = [
        {"image_id": n, "file_name": f"{name}.png", "segments_info": segments}
        for n, name in enumerate("ab")
    ]
    images = [noise(60, 90), noise(90, 60)]
    same(*both(images, annotations, masks_path=tmp_path, format="coco_panoptic"))


PUBLISHED: dict[str, Any] = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "DetrFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "max_size": 1333,
    "size": 800,
}
"""The file beside the published models, which is of transformers 4.6."""
CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {**PUBLISHED, "format": "coco_panoptic"},
    {"size": {"max_height": 48, "max_width": 60}, "pad_size": {"height": 50, "width": 60}},
    {"size": {"height": 40, "width": 72}, "do_normalize": False},
    {"do_pad": False, "resample": 3, "rescale_factor": 1 / 127, "do_convert_annotations": False},
    {"format": AnnotationFormat.COCO_PANOPTIC, "image_mean": [0.5, 0.5, 0.5], "image_std": 0.5},
]


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_files_go_both_ways(options: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = (kind.from_dict(options) for kind in KINDS)
    assert json.loads(ours.to_json_string()) == without_none(json.loads(theirs.to_json_string()))
    assert [Path(file).name for file in ours.save_pretrained(tmp_path / "ours")] == [CONFIG]
    theirs.save_pretrained(tmp_path / "theirs")
    reread = (
        DetrImageProcessor.from_pretrained(tmp_path / "ours"),
        DetrImageProcessor.from_pretrained(tmp_path / "theirs"),
        DetrImageProcessor.from_json_file(tmp_path / "theirs" / CONFIG),
        DetrImageProcessor.from_pretrained(tmp_path / "ours" / CONFIG),
    )
    assert [other.to_dict() for other in reread] == [ours.to_dict()] * 4
    for opened in (DetrImageProcessorPil, AutoImageProcessor):
        theirs = opened.from_pretrained(tmp_path / "ours")
        assert type(theirs) is DetrImageProcessorPil
        assert without_none(theirs.to_dict()) == ours.to_dict()


def without_none(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not set, sizes' sides included."""
    found = {name: value for name, value in options.items() if value is not None}
    sizes = {
        name: without_none(dict(found[name])) for name in ("size", "pad_size") if name in found
    }
    return {**found, **sizes}


@pytest.mark.parametrize(
    ("image", "options", "size"),
    [
        ((200, 100), {"size": {"max_height": 100, "max_width": 100}}, (100, 50)),
        ((200, 100), {"size": {"max_height": 300, "max_width": 100}}, (200, 100)),
        ((100, 150), {"size": {"max_height": 150, "max_width": 100}}, (66, 100)),
        ((320, 640), {"size": {"max_height": 480, "max_width": 480}}, (240, 480)),
        ((320, 640), {"size": {"height": 480, "width": 480}}, (480, 480)),
        ((320, 640), {"size": (30, 20)}, (30, 20)),
        ((958, 653), {"size": {"shortest_edge": 640, "longest_edge": 640}}, (640, 436)),
        ((100, 120), {"size": {"shortest_edge": 100, "longest_edge": 118}}, (98, 118)),
        ((50, 50), {"size": {"shortest_edge": 50, "longest_edge": 117}}, (50, 50)),
        ((2, 40), {"size": {"shortest_edge": 30, "longest_edge": 80}}, (4, 80)),
        ((40, 60), {"size": 20}, (20, 30)),
    ],
)
def test_sizes(image: tuple[int, int], options: dict[str, Any], size: tuple[int, int]) -> None:
    pixels = noise(*image)
    pads: list[dict[str, Any]] = [
        {"do_pad": False},
        {},
        {"pad_size": {"height": 640, "width": 640}},
    ]
    for pad in pads:
        at_start, theirs = (kind(**options, **pad)(pixels, return_tensors="pt") for kind in KINDS)
        in_call = DetrImageProcessor()(pixels, return_tensors="pt", **options, **pad)
        for ours in (at_start, in_call):
            assert ours.keys() == theirs.keys()
            torch.testing.assert_close(ours.pixel_values, theirs.pixel_values, rtol=0, atol=LEVEL)
            if "pixel_mask" in theirs:
                assert torch.equal(ours.pixel_mask, theirs.pixel_mask)
        if not pad.get("do_pad", True):
            assert at_start.pixel_values.shape[-2:] == size


@pytest.mark.parametrize(
    "options", [{}, {"do_resize": False}, {"image_mean": 0.4, "image_std": 0.2}]
)
def test_four_channels_stay_where_the_mean_is_for_four(options: dict[str, Any]) -> None:
    four: dict[str, Any] = {"image_mean": [0.0] * 4, "image_std": [1.0, 0.5, 1.0, 1.0], **options}
    image = np.dstack([noise(40, 60), noise(40, 60)[..., :1]])
    ours, theirs = (
        kind(size=SIZE)(image, return_tensors="pt", input_data_format="channels_last", **four)
        for kind in KINDS
    )
    assert ours.pixel_values.shape[1] == 4
    torch.testing.assert_close(ours.pixel_values, theirs.pixel_values, rtol=0, atol=LEVEL * 5)


@pytest.mark.parametrize("options", [{}, {"do_resize": False}])
def test_a_grey_image_stays_grey_where_the_mean_is_for_one(options: dict[str, Any]) -> None:
    one: dict[str, Any] = {"image_mean": [0.4], "image_std": [0.5], **options}
    grey = noise(60, 90)[..., 0]
    for image in (Image.fromarray(grey), grey[None]):
        same(*both(image, **one))
    with pytest.raises(ValueError, match=r"\w"):
        THEIRS(size=SIZE, **one)(noise(60, 90))
    for image in (noise(60, 90), Image.fromarray(noise(60, 90))):
        with pytest.raises(ImageError, match="3 channels and image_mean is for one"):
            DetrImageProcessor(size=SIZE, **one)(image)


@pytest.mark.parametrize("resample", Image.Resampling)
def test_filters_by_name_and_number(resample: Image.Resampling) -> None:
    for number in (resample, int(resample)):
        ours, theirs = both(noise(60, 90), resample=number)
        same(ours, theirs)
    named = DetrImageProcessor(size=SIZE, resample=resample.name.lower())
    same(named(noise(60, 90), return_tensors="pt"), ours)  # of a name theirs takes no notice
    with pytest.raises(UsageError, match="resample is 'best'; expected one of nearest"):
        named(noise(60, 90), resample="best")


def test_floats_that_cannot_be_bytes() -> None:
    """transformers resizes bytes, too, and refuses what would be cut off."""
    between = noise(60, 90) / 170
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"whole|outside the range"):
            kind(size=SIZE, do_rescale=False)(between)
    call: dict[str, Any] = {"do_resize": False, "do_rescale": False}
    same(*both(between, **call))
    same(*both(noise(60, 90).astype(np.float32)))


POINTS = [[12, 7, 2], [20, 30, 1]]


@pytest.mark.parametrize(
    "change",
    [
        {"keypoints": POINTS},
        {"keypoints": np.array(POINTS)},
        {"keypoints": torch.tensor(POINTS).flatten()},
        {"bbox": torch.tensor([10.0, 5.0, 20.5, 30.0]), "category_id": torch.tensor(3)},
        {"bbox": ("10", "5", "20", "30"), "category_id": "3", "area": np.float64(300)},
        {"segmentation": [torch.tensor([10.0, 5, 30.5, 5, 30.5, 35])]},
        {"segmentation": [np.array([10, 5, 30, 5, 30, 35])], "iscrowd": False},
    ],
)
def test_numbers_of_annotations_in_every_form(change: dict[str, Any]) -> None:
    objects = [{**OBJECTS["annotations"][0], **change}]
    for number in (7, "0007", 7.0, [7], np.array([7]), torch.tensor(7), torch.tensor([7])):
        given_objects = {"image_id": number, "annotations": objects}
        same(*both(noise(60, 90), given_objects, return_segmentation_masks=True))


def test_forms_of_images_and_annotations(tmp_path: Path) -> None:
    image = noise(60, 90)
    turned = Image.Exif()
    turned[0x0112] = 6  # the orientation: it is stored on its side
    Image.fromarray(np.rot90(image)).save(tmp_path / "a.png", exif=turned)
    forms: list[Any] = [
        Image.fromarray(image),
        image,
        image.transpose(2, 0, 1),
        torch.from_numpy(image),
        torch.from_numpy(image).permute(2, 0, 1),
        [image],
        (image,),
        [[image]],
        str(tmp_path / "a.png"),
        [str(tmp_path / "a.png")],
        image[None],
        torch.from_numpy(image)[None],
    ]
    for form in forms:
        for given_objects in (OBJECTS, [OBJECTS], (OBJECTS,)):
            same(*both(form, given_objects))
    same(*both([image] * 3, [OBJECTS] * 3))


def test_attributes_are_options_and_can_be_set() -> None:
    ours, theirs = DetrImageProcessor(size=SIZE), THEIRS(size=SIZE)
    names = [name for name in DetrImageProcessorPil().to_dict() if name != "image_processor_type"]
    for name in (*names, "model_input_names"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for processor in (ours, theirs):
        processor.do_resize = False
        processor.image_mean = (0.0, 0.0, 0.0)
    image = noise(60, 90)
    same(ours(image, return_tensors="pt"), theirs(image, return_tensors="pt"))
    # Whether boxes are converted was settled when the processor was made.
    ours, theirs = (kind(size=SIZE) for kind in KINDS)
    call: dict[str, Any] = {"do_normalize": False, "return_tensors": "pt"}
    same(ours(image, OBJECTS, **call), theirs(image, OBJECTS, **call))


def test_a_batch_moves_and_changes_its_type() -> None:
    ours, theirs = both(noise(60, 90), OBJECTS)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((torch.float16,), {}),
        (("cpu", torch.bfloat16), {}),
        ((), {"device": "cpu", "dtype": torch.float64, "non_blocking": True}),
    ]
    for to, named in calls:
        one, other = ours.to(*to, **named), theirs.to(*to, **named)
        for name in ("pixel_values", "pixel_mask"):
            assert one[name].dtype == other[name].dtype
        for name, value in other["labels"][0].items():
            assert one["labels"][0][name].dtype == value.dtype
    for kind in KINDS:
        lists = kind(size=SIZE)([noise(60, 90)] * 2, [OBJECTS] * 2)
        assert lists.data.keys() == lists.keys()
        made = lists.convert_to_tensors("pt")
        assert made.pixel_values.shape == (2, 3, 48, 72)
    for batch in (ours, theirs):
        with pytest.raises(TypeError):
            batch.to(torch.bfloat16, "cpu")
        with pytest.raises(AttributeError):
            _ = batch.no_such_name
    on_cpu = DetrImageProcessor(size=SIZE)(noise(60, 90), return_tensors="pt", device="cpu")
    assert on_cpu.pixel_values.device.type == "cpu"
