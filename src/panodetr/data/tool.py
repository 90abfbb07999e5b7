"""Which program wrote a data set, by what is typical of its files, and what it exports instead."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import PurePosixPath

from panodetr.data.tree import Tree, words_of

_LOOKED_AT = 20
"""Files of each kind."""

_JSON, _XML, _YAML = (".json",), (".xml",), (".yaml", ".yml")
_CSV, _TEXT = (".csv",), (".txt",)

_MARKS: tuple[tuple[str, tuple[str, ...], bytes], ...] = (
    ("Roboflow", (*_JSON, *_XML), rb"(?i)exported from roboflow|<(annotation|database)>roboflow"),
    ("Roboflow", _YAML, rb"(?m)^roboflow:"),
    ("Roboflow", (".txt",), rb"(?i)roboflow\.(com|ai)"),
    ("Label Studio", _JSON, rb'"contributor"\s*:\s*"Label Studio"'),
    ("VGG Image Annotator", _JSON, rb'VGG Image Annotator|"_via_|"region_attributes"'),
    ("Make Sense", _JSON, rb'"description"\s*:\s*"my-project-name"'),
    ("COCO Annotator", _JSON, rb'"path"\s*:\s*"/datasets/'),
    ("Segments.ai", _JSON, rb"(?i)segments\.ai"),
    ("X-AnyLabeling", _JSON, rb'(?s)"shapes".*"(kie_linking|difficult)"'),
    ("labelme", _JSON, rb'(?s)(?=.*"version"\s*:\s*"\d)(?=.*"shapes")(?=.*"imagePath")'),
    ("COCO itself", _JSON, rb'"url"\s*:\s*"https?://(www\.)?(cocodataset|mscoco)\.org'),
    # What CVAT writes is datumaro's: fields that are there, and empty.
    ("CVAT", _JSON, rb'"contributor"\s*:\s*""\s*,\s*"date_created"\s*:\s*""\s*,\s*"description"'),
    ("CVAT", _XML, rb"<annotation>Unknown</annotation>|<sourceAnnotation>Datumaro"),
    ("CVAT", (".txt",), rb"^# label:color_rgb:parts:actions"),
    ("CVAT", (".data",), rb"(?m)^names\s*=\s*(data/)?obj\.names"),
    ("LabelImg", _XML, rb"<source>\s*<database>Unknown</database>\s*</source>"),
    ("Ultralytics", _YAML, rb"(?i)ultralytics"),
    ("Cellpose", ("_cp_masks.png", "_cp_masks.tif", "_seg.npy"), rb""),
)
"""A tool, how its files end, and what it writes there; the first that is found holds."""

_COCO = "export it as COCO"
_DATUM = "datum convert -i FOLDER -if {} -f coco -o OUT"

_FOREIGN: tuple[tuple[str, tuple[str, ...], bytes], ...] = (
    ("is a volume: save its slices as PNG or TIFF", (".nii", ".nii.gz", ".nrrd", ".mha"), rb""),
    ("is an archive: unpack it", (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), rb""),
    ("holds TFRecords: " + _COCO, (".tfrecord", ".record"), rb""),
    (
        "holds images of Hugging Face: write them as files with a metadata.jsonl",
        (".parquet", ".arrow"),
        rb"",
    ),
    ("is an array, perhaps Cellpose's: save masks as PNG or TIFF", (".npy",), rb""),
    ("is CVAT's own XML: export as COCO 1.0", _XML, rb"<annotations>"),
    ("is Aperio's: import it in QuPath, and export a label image", _XML, rb"<Annotations[\s>]"),
    ("is a region of ImageJ's: save a label image of all", (".roi",), rb""),
    ("is Supervisely's: " + _COCO, _JSON, rb'"classTitle"|"geometryType"'),
    ("is Labelbox's: " + _COCO, (*_JSON, ".ndjson"), rb'"DataRow ID"|"data_row"|"Labeled Data"'),
    ("is Label Studio's own JSON: " + _COCO, _JSON, rb'"(rectangle|polygon|brush)labels"'),
    ("is VoTT's: export it as Pascal VOC", _JSON, rb'(?s)"regions".*"tags"'),
    ("is VIA 3's: export it as COCO", _JSON, rb'(?s)"fname".*"vid"'),
    ("is Create ML's: " + _COCO, _JSON, rb'(?s)"annotations?".*"coordinates"'),
    ("is Scale's: convert it to COCO", _JSON, rb'(?s)"task_id".*"response"'),
    ("is SA-1B's, without classes: convert it to COCO", _JSON, rb'"predicted_iou"'),
    ("is Datumaro's: " + _DATUM.format("datumaro"), _JSON, rb'(?s)"categories".*"items"'),
    ("is Cityscapes': " + _DATUM.format("cityscapes"), _JSON, rb'(?s)"imgHeight".*"polygon"'),
    ("is BDD100K's: convert it to COCO with bdd100k's to_coco", _JSON, rb'"box2d"|"poly2d"'),
    ("is Hasty's: " + _COCO, _JSON, rb'"label_classes"'),
    ("is V7's: " + _COCO, _JSON, rb'darwin_json|"bounding_box"\s*:\s*\{'),
    ("is Detectron2's: write it with its convert_to_coco_json", _JSON, rb'"bbox_mode"'),
    ("is MMDetection's: convert it to COCO", _JSON, rb'"bbox_label"|"ann"\s*:\s*\{'),
    ("is of a language model: " + _COCO, (".jsonl",), rb'"suffix"|"messages"'),
    ("lacks file_name: name each image so", (".jsonl",), rb'"objects"|"bbox'),
    ("is SuperAnnotate's: " + _COCO, _JSON, rb'(?s)"instances".*"className"'),
    ("lacks categories: add them", _JSON, rb'(?s)"(bbox|segmentation)"\s*:.*"images"\s*:\s*\['),
    ("lacks categories: add them", _JSON, rb'(?s)"images"\s*:\s*\[.*"(bbox|segmentation)"\s*:'),
    ("is GeoJSON: export a label image", (*_JSON, ".geojson"), rb'"Feature(Collection)?"'),
    ("is Open Images': " + _DATUM.format("open_images"), _CSV, rb"ImageID,Source,LabelName"),
    (
        "is of class maps or labels, without objects: " + _COCO,
        _CSV,
        rb"(?i)^(pixel value|filename, )",
    ),
    (
        "is a table of boxes: " + _COCO,
        _CSV,
        rb"(?i)xmin|x_min|,x1,|,x,y,w|bbox|region_shape|^[^,\n]+(,\d+){4}[,\s]",
    ),
    ("is a table of run lengths: write them as COCO's", _CSV, rb"(?i)EncodedPixels"),
    ("is KITTI's: " + _DATUM.format("kitti"), _TEXT, rb"^[A-Za-z]+( -?[\d.]+){14}"),
    ("is BBox-Label-Tool's: convert it to YOLO", _TEXT, rb"^\d+\s*\n(\d+ ){3}\d+\s"),
    ("is MOT's, for video: " + _COCO, _TEXT, rb"^\d+,-?\d+(,-?[\d.]+){4,}"),
    ("names colours of classes, without objects: " + _COCO, _TEXT, rb"^\d+ \d+ \d+ [A-Za-z]"),
    (
        "is Cityscapes': " + _DATUM.format("cityscapes"),
        ("_instanceids.png", "_labelids.png"),
        rb"",
    ),
    ("is DOTA's: write YOLO with a box's four corners", _TEXT, rb"(?m)^([\d.]+ ){8}[a-z]\S* [012]"),
    ("lists boxes of several images: " + _COCO, _TEXT, rb"^\S+\.\w+[ ,]\d+,\d+,\d+,\d+,\w"),
)
"""What has no reader here: what is said of a file, how it ends, and what it holds."""


def name_tool(tree: Tree) -> str | None:
    """Name the tool that wrote the files of a data set; None where nothing shows it."""
    found = _first(tree, _MARKS)
    return found and found[0]


def advise(tree: Tree) -> str:
    """Say of a folder without a data set what a file in it is, and what to do; "" if unknown.

    Where a file is named, it is that one.
    """
    if found := _first(tree, _FOREIGN):
        return f"{found[1]} {found[0]}"
    for folder, names in tree.folders.items() if tree.only is None else ():
        if folder.name.startswith("SegmentationClass"):
            return f"{folder} holds classes, not objects: export SegmentationObject beside it"
        jpeg = next((name for name in names if name.lower().endswith((".jpg", ".jpeg"))), None)
        if jpeg and not {"mask", "masks"}.isdisjoint(words_of(folder.name)):
            return f"{folder / jpeg} is a JPEG, which blurs ids: save masks without loss, as PNG"
    return ""


def _first(
    tree: Tree, marks: Iterable[tuple[str, tuple[str, ...], bytes]]
) -> tuple[str, str] | None:
    """Give the first of some marks that a file has, and the file."""
    every = [(f, n) for f, names in tree.folders.items() if len(f.parts) <= 4 for n in names]
    if tree.only is not None:
        every = [(PurePosixPath(os.path.relpath(tree.only.parent, tree.root)), tree.only.name)]
    lower = [(folder, name, name.lower()) for folder, name in every]
    for said, ends, mark in marks:
        paths = (folder / name for folder, name, low in lower if low.endswith(ends))
        for path in islice(paths, _LOOKED_AT):
            if re.search(mark, tree.ends(tree.root / path)):
                return said, str(path)
    return None
