"""One data set, written in every format that is read, gives the same records."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from panodetr.data.dataset import open_data, read_objects
from panodetr.data.formats.shapes import rectangle

from .conftest import write_image

NAMES = ("no", "zebra")
COLORS = ((250, 50, 83), (50, 183, 250))


@dataclass(frozen=True)
class Picture:
    """An image, and its objects: a class, and a box x, y, width, height of whole pixels."""

    stem: str
    size: tuple[int, int]
    objects: tuple[tuple[str, tuple[int, int, int, int]], ...]


Pictures: TypeAlias = tuple[Picture, ...]
Record: TypeAlias = tuple[str, tuple[float, ...], int]
"""Class, box x0, y0, x1, y1, and pixels of the mask."""


@st.composite
def pictures(draw: st.DrawFn) -> Pictures:
    """Up to three images, each with an object in some of its four quarters."""
    made: list[Picture] = []
    for number in range(draw(st.integers(1, 3))):
        height, width = draw(st.integers(16, 40)), draw(st.integers(16, 40))
        objects: list[tuple[str, tuple[int, int, int, int]]] = []
        for place in draw(st.sets(st.integers(0, 3), min_size=1)):
            left, top = place % 2 * (width // 2), place // 2 * (height // 2)
            x, y = draw(st.integers(1, 3)), draw(st.integers(1, 3))
            w, h = (
                draw(st.integers(2, width // 2 - x - 1)),
                draw(st.integers(2, height // 2 - y - 1)),
            )
            objects.append((draw(st.sampled_from(NAMES)), (left + x, top + y, w, h)))
        made.append(Picture(f"image {number}", (height, width), tuple(objects)))
    return tuple(made)


def save_images(folder: Path, made: Pictures, suffix: str = ".png") -> None:
    for picture in made:
        write_image(folder / f"{picture.stem}{suffix}", picture.size)


def save_json(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def ids_of(picture: Picture) -> NDArray[np.uint8]:
    """Draw objects as numbers from 1."""
    ids = np.zeros(picture.size, np.uint8)
    for number, (_, (x, y, w, h)) in enumerate(picture.objects, start=1):
        ids[y : y + h, x : x + w] = number
    return ids


def coco(made: Pictures, *, prefix: str = "", text: bool = False) -> dict[str, Any]:
    """Write as COCO; `text` writes ids and numbers as some tools do."""
    write: Callable[[int], object] = str if text else int
    return {
        "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES)],
        "images": [
            {"id": write(n), "file_name": f"{prefix}{p.stem}.png"} for n, p in enumerate(made)
        ],
        "annotations": [
            {
                "id": f"u{n}-{k}", "image_id": n, "category_id": write(NAMES.index(name)),
                "bbox": [write(side) for side in box], "segmentation": [rectangle(box)],
            }
            for n, picture in enumerate(made)
            for k, (name, box) in enumerate(picture.objects)
        ],
    }  # fmt: skip


def write_roboflow(folder: Path, made: Pictures) -> None:
    save_images(folder / "train", made)
    document = coco(made, text=True)
    for category in document["categories"]:
        category |= {"id": category["id"] + 1, "supercategory": "all"}
    document["categories"].insert(0, {"id": 0, "name": "all", "supercategory": "none"})
    for annotation in document["annotations"]:
        annotation["category_id"] = int(annotation["category_id"]) + 1
    save_json(folder / "train" / "_annotations.coco.json", document)


def write_cvat(folder: Path, made: Pictures) -> None:
    save_images(folder / "images" / "Train", made)
    save_json(folder / "annotations" / "instances_Train.json", coco(made))


def write_label_studio(folder: Path, made: Pictures) -> None:
    save_images(folder / "images", made)
    save_json(folder / "result.json", coco(made, prefix="images\\"))


def write_panoptic(folder: Path, made: Pictures) -> None:
    save_images(folder / "train2017", made)
    document = coco(made)
    for category in document["categories"]:
        category["isthing"] = 1
    document["annotations"] = []
    (folder / "panoptic_train2017").mkdir()
    for number, picture in enumerate(made):
        ids = ids_of(picture)
        colors = np.stack([ids, 0 * ids, 0 * ids], axis=-1)
        Image.fromarray(colors).save(folder / "panoptic_train2017" / f"{picture.stem}.png")
        segments = [
            {"id": n, "category_id": NAMES.index(name)}
            for n, (name, _) in enumerate(picture.objects, start=1)
        ]
        document["annotations"].append(
            {"image_id": number, "file_name": f"{picture.stem}.png", "segments_info": segments}
        )
    save_json(folder / "annotations" / "panoptic_train2017.json", document)


def write_labels(folder: Path, made: Pictures, *, boxes: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for picture in made:
        height, width = picture.size
        lines: list[str] = []
        for name, (x, y, w, h) in picture.objects:
            numbers = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            if not boxes:
                ring = rectangle((x, y, w, h))
                numbers = [v / (height if i % 2 else width) for i, v in enumerate(ring)]
            lines.append(f"{NAMES.index(name)} {' '.join(f'{v:.10g}' for v in numbers)}\r\n")
        (folder / f"{picture.stem}.txt").write_text("".join(lines))


def write_yolo(folder: Path, made: Pictures) -> None:
    save_images(folder / "data" / "train" / "images", made)
    write_labels(folder / "data" / "train" / "labels", made)
    (folder / "set.yaml").write_text(
        "path: D:\\work\\data\ntrain: train\\images\nnames: [no, zebra]\n"
    )


def write_darknet(folder: Path, made: Pictures) -> None:
    save_images(folder / "obj", made)
    write_labels(folder / "obj", made, boxes=True)
    (folder / "obj.names").write_text("no\nzebra\n")
    listed = [f"data/obj/{picture.stem.upper()}.PNG\n" for picture in made]
    (folder / "train.txt").write_text("".join(listed))


def write_labelme(folder: Path, made: Pictures) -> None:
    save_images(folder / "photo", made)
    for picture in made:
        shapes = [
            {"label": name, "points": [[x, y], [x + w, y + h]], "shape_type": "rectangle"}
            for name, (x, y, w, h) in picture.objects
        ]
        height, width = picture.size
        document = {"shapes": shapes, "imagePath": f"..\\photo\\{picture.stem}.png",
                    "imageHeight": height, "imageWidth": width}  # fmt: skip
        save_json(folder / "marks" / f"{picture.stem}.json", document)


def write_via(folder: Path, made: Pictures, *, version: int = 1) -> None:
    save_images(folder / "train", made)
    entries: dict[str, Any] = {}
    for picture in made:
        regions: list[dict[str, Any]] = []
        for name, (x, y, w, h) in picture.objects:
            ring = rectangle((x, y, w, h))
            shape = {"name": "polygon", "all_points_x": ring[::2], "all_points_y": ring[1::2]}
            if version == 2:
                shape = {"name": "rect", "x": x, "y": y, "width": w, "height": h}
            regions.append({"shape_attributes": shape, "region_attributes": {"kind": name}})
        name = f"{picture.stem}.png"
        entries[f"{name}1"] = {"filename": name, "regions": regions}
        if version == 1:
            entries[f"{name}1"]["regions"] = dict(enumerate(regions))
    document = entries if version == 1 else {"_via_img_metadata": entries, "_via_settings": {}}
    save_json(folder / "train" / "via.json", document)


def write_voc_xml(folder: Path, made: Pictures) -> None:
    save_images(folder / "JPEGImages", made)
    (folder / "Annotations").mkdir()
    for picture in made:
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for name, (x, y, w, h) in picture.objects
        )
        text = f"<annotation><filename>{picture.stem}.png</filename>{objects}</annotation>"
        (folder / "Annotations" / f"{picture.stem}.xml").write_text(text)


def write_voc_masks(folder: Path, made: Pictures, *, colors: bool = False) -> None:
    save_images(folder / "JPEGImages", made)
    for part in ("SegmentationObject", "SegmentationClass"):
        (folder / part).mkdir()
        for picture in made:
            values = ids_of(picture)
            if part == "SegmentationClass":
                classes = [0, *(NAMES.index(name) + 1 for name, _ in picture.objects)]
                values = np.array(classes, np.uint8)[values]
            shown = Image.fromarray(values)
            if colors:
                table = [(0, 0, 0), *COLORS, (9, 9, 9), (7, 8, 9)]
                shown = Image.fromarray(np.array(table, np.uint8)[values])
            else:
                shown.putpalette([v % 256 for v in range(0, 768 * 7, 7)])
            shown.save(folder / part / f"{picture.stem}.png")
    lines = [f"{n}:{','.join(map(str, c))}::" for n, c in zip(NAMES, COLORS, strict=True)]
    (folder / "labelmap.txt").write_text("\n".join(["background:0,0,0::", *lines]))
    if not colors:
        (folder / "labelmap.txt").unlink()
        (folder / "class_names.txt").write_text("__ignore__\n_background_\nno\nzebra\n")


def write_mask_files(folder: Path, made: Pictures) -> None:
    for picture in made:
        save_images(folder / "stage1_train" / picture.stem / "images", (picture,))
        masks = folder / "stage1_train" / picture.stem / "masks"
        masks.mkdir()
        for number in range(1, len(picture.objects) + 1):
            mask = Image.fromarray(((ids_of(picture) == number) * 255).astype(np.uint8))
            mask.save(masks / f"{number:032x}.png")


def write_id_maps(folder: Path, made: Pictures, *, pairs: bool = False) -> None:
    for picture in made:
        images, masks = (folder, folder) if pairs else (folder / "images", folder / "masks")
        save_images(images, (picture,), "_img.png" if pairs else ".png")
        masks.mkdir(exist_ok=True)
        ending = "_masks" if pairs else ""
        values = ids_of(picture).astype(np.float64) if pairs else ids_of(picture)
        Image.fromarray(values.astype(np.int32)).save(masks / f"{picture.stem}{ending}.tif")


def write_imagefolder(folder: Path, made: Pictures) -> None:
    save_images(folder / "train", made)
    lines = [
        json.dumps({
            "file_name": f"{picture.stem}.png",
            "objects": {
                "bbox": [box for _, box in picture.objects],
                "categories": [name for name, _ in picture.objects],
            },
        })
        for picture in made
    ]  # fmt: skip
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))


WRITERS: dict[str, tuple[Callable[[Path, Pictures], None], bool, bool]] = {
    "roboflow": (write_roboflow, True, True),
    "cvat": (write_cvat, True, True),
    "label studio": (write_label_studio, True, True),
    "panoptic": (write_panoptic, True, True),
    "yolo": (write_yolo, True, True),
    "darknet": (write_darknet, True, False),
    "labelme": (write_labelme, True, True),
    "via 1": (write_via, True, True),
    "via 2": (lambda folder, made: write_via(folder, made, version=2), True, True),
    "voc xml": (write_voc_xml, True, False),
    "voc masks": (write_voc_masks, True, True),
    "voc colours": (lambda folder, made: write_voc_masks(folder, made, colors=True), True, True),
    "mask files": (write_mask_files, False, True),
    "id maps": (write_id_maps, False, True),
    "cellpose": (lambda folder, made: write_id_maps(folder, made, pairs=True), False, True),
    "imagefolder": (write_imagefolder, True, False),
}
"""How to write each, whether it has classes, and whether it has masks."""


def read_records(folder: Path) -> dict[str, list[Record]]:
    """Read a data set, and give each image's objects, sorted."""
    data = open_data(folder)
    names = {category.index: category.name for category in data.categories}
    found: dict[str, list[Record]] = {}
    for sample in data.samples:
        objects = read_objects(sample, data.index_of, with_masks=data.has_masks)
        records: list[Record] = []
        for place, number in enumerate(objects.segment_ids.tolist()):
            pixels = 0
            if objects.ids is not None:
                ys, xs = np.nonzero(objects.ids == number)
                pixels = len(ys)
                box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            else:
                assert objects.boxes is not None
                box = objects.boxes[place].tolist()
            sides = tuple(round(float(side), 3) for side in box)
            records.append((names[int(objects.classes[place])], sides, pixels))
        found[sample.path.stem.removesuffix("_img")] = sorted(records)
    return found


def expected(made: Pictures, *, classes: bool, masks: bool) -> dict[str, list[Record]]:
    return {
        picture.stem: sorted(
            (name if classes else "object", (x, y, x + w, y + h), w * h if masks else 0)
            for name, (x, y, w, h) in picture.objects
        )
        for picture in made
    }


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=12, deadline=None)
@given(made=pictures())
def test_every_format_gives_the_same_records(name: str, made: Pictures) -> None:
    write, classes, masks = WRITERS[name]
    if name == "cellpose" and len(made) == 1:  # a single pair is no data set
        (first,) = made
        made = (first, Picture("other", first.size, first.objects))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), made)
        assert read_records(Path(folder)) == expected(made, classes=classes, masks=masks)
