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
_KEPT = (*_JSON, *_XML, *_YAML, *_CSV, *_TEXT, ".jsonl", ".zip", ".jpg", ".png", ".tif")

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

_FOREIGN: tuple[tuple[str, str, tuple[str, ...], bytes], ...] = (
    ("is a pointer of Git LFS", "run git lfs pull", _KEPT, rb"^version https://git-lfs"),
    ("is a volume", "save its slices as PNG or TIFF", (".nii", ".nii.gz", ".nrrd", ".mha"), rb""),
    ("is an archive", "unpack it", (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), rb""),
    ("holds TFRecords", "tf_detection_api", (".tfrecord", ".record"), rb""),
    ("holds images", "write them as files with a metadata.jsonl", (".parquet", ".arrow"), rb""),
    ("is an array, perhaps Cellpose's", "save masks as PNG or TIFF", (".npy", ".npz"), rb""),
    ("is MATLAB's", "save masks as PNG or TIFF, a number an object", (".mat",), rb""),
    ("is CVAT's own XML, not COCO 1.0", "cvat", _XML, rb"<annotations>"),
    ("is Aperio's", "import it in QuPath, and export a label image", _XML, rb"<Annotations[\s>]"),
    ("is a region of ImageJ's", "save a label image of all", (".roi",), rb""),
    ("is Supervisely's", "", _JSON, rb'"classTitle"|"geometryType"'),
    ("is Labelbox's", "", (*_JSON, ".ndjson"), rb'"DataRow ID"|"data_row"|"Labeled Data"'),
    ("is Label Studio's own JSON", "", _JSON, rb'"(rectangle|polygon|brush)labels"'),
    ("is VoTT's", "vott_json", _JSON, rb'(?s)"regions".*"tags"'),
    ("is ISAT's", "", _JSON, rb'"description"\s*:\s*"ISAT"'),
    ("is VIA 3's", "", _JSON, rb'(?s)"fname".*"vid"'),
    ("is Create ML's", "", _JSON, rb'(?s)"annotations?".*"coordinates"'),
    ("is Scale's", "", _JSON, rb'(?s)"task_id".*"response"'),
    ("is SA-1B's, without classes", "segment_anything", _JSON, rb'"predicted_iou"'),
    ("is Datumaro's", "datumaro", _JSON, rb'(?s)"categories".*"items"'),
    ("is Cityscapes'", "cityscapes", _JSON, rb'(?s)"imgHeight".*"polygon"'),
    ("is BDD100K's", "convert it to COCO with bdd100k's to_coco", _JSON, rb'"box2d"|"poly2d"'),
    ("is Hasty's", "", _JSON, rb'"label_classes"'),
    ("is V7's", "", _JSON, rb'darwin_json|"bounding_box"\s*:\s*\{'),
    ("is Detectron2's", "write it with its convert_to_coco_json", _JSON, rb'"bbox_mode"'),
    ("is MMDetection's", "", _JSON, rb'"bbox_label"|"ann"\s*:\s*\{'),
    ("is of a language model", "", (".jsonl",), rb'"suffix"|"messages"'),
    ("lacks file_name", "name each image so", (".jsonl",), rb'"objects"|"bbox'),
    ("is SuperAnnotate's", "", _JSON, rb'(?s)"instances".*"className"'),
    ("lacks categories", "add them", _JSON, rb'(?s)"(bbox|segmentation)"\s*:.*"images"\s*:\s*\['),
    ("lacks categories", "add them", _JSON, rb'(?s)"images"\s*:\s*\[.*"(bbox|segmentation)"\s*:'),
    ("is Segments.ai's", "", _JSON, rb'"segmentation_bitmap"'),
    ("is FiftyOne's", "", _JSON, rb'(?s)"classes".*"bounding_box"\s*:\s*\['),
    ("is GeoJSON", "export a label image", (*_JSON, ".geojson"), rb'"Feature(Collection)?"'),
    ("is Open Images'", "open_images", _CSV, rb"ImageID,Source,LabelName"),
    ("is of classes, without objects", "", _CSV, rb"(?i)^(pixel value|filename, )"),
    ("is a table of boxes", "", _CSV, rb"(?i)x_?min|[,;]x1[,;]|,x,y,w|bbox|region_shape"),
    ("is a table of boxes", "", _CSV, rb"^[^,\n]+(,\d+){4}[,\s]"),
    ("is a table of run lengths", "write them as COCO's", _CSV, rb"(?i)EncodedPixels"),
    ("is KITTI's", "kitti", _TEXT, rb"^[A-Za-z]+( -?[\d.]+){14}"),
    ("is BBox-Label-Tool's", "convert it to YOLO", _TEXT, rb"^\d+\s*\n(\d+ ){3}\d+\s"),
    ("is VisDrone's", "", _TEXT, rb"^(\d+,){5}\d+,[0-2],[0-2],?\s"),
    ("is MOT's", "mot_seq", _TEXT, rb"^\d+,-?\d+(,-?[\d.]+){4,}"),
    ("is WIDER FACE's", "wider_face", _TEXT, rb"^\S+\.jpg\s+\d+\s+(\d+ ){4}"),
    ("names colours of classes, without objects", "", _TEXT, rb"^\d+ \d+ \d+ [A-Za-z]"),
    ("names ADE20K's", "ade20k2020", ("objectinfo150.txt",), rb""),
    ("is Cityscapes'", "cityscapes", ("_instanceids.png", "_labelids.png"), rb""),
    ("is DOTA's", "write YOLO, four corners a box", _TEXT, rb"(?m)^([\d.]+ ){8}[a-z]\S* [012]"),
    ("lists boxes of several images", "", _TEXT, rb"^\S+\.\w+[ ,]\d+,\d+,\d+,\d+,\w"),
)
"""What has no reader here: what it is, what to do, how a file ends, and what it holds.

What to do is a sentence, the name of a format that datumaro converts, or else to export COCO.
"""


def name_tool(tree: Tree) -> str | None:
    """Name the tool that wrote the files of a data set; None where nothing shows it."""
    found = _first(tree, ((tool, "", ends, mark) for tool, ends, mark in _MARKS))
    return found and found[0]


def advise(tree: Tree) -> str:
    """Say of a folder without a data set what a file in it is, and what to do; "" if unknown.

    Where a file is named, it is that one.
    """
    if found := _first(tree, _FOREIGN):
        what, remedy, path = found
        if remedy.replace("_", "").isalnum():
            remedy = f"datum convert -i FOLDER -if {remedy} -f coco -o OUT"
        return f"{path} {what}: {remedy or 'export it as COCO, or convert it'}"
    for folder, names in tree.folders.items() if tree.only is None else ():
        if folder.name.startswith("SegmentationClass"):
            return f"{folder} holds classes, not objects: export SegmentationObject beside it"
        jpeg = next((name for name in names if name.lower().endswith((".jpg", ".jpeg"))), None)
        if jpeg and not {"mask", "masks"}.isdisjoint(words_of(folder.name)):
            return f"{folder / jpeg} is a JPEG, which blurs ids: save masks without loss, as PNG"
    return ""


def _first(
    tree: Tree, marks: Iterable[tuple[str, str, tuple[str, ...], bytes]]
) -> tuple[str, str, str] | None:
    """Give what is said with the first of some marks that a file has, and the file."""
    every = [(f, n) for f, names in tree.folders.items() if len(f.parts) <= 4 for n in names]
    if tree.only is not None:
        every = [(PurePosixPath(os.path.relpath(tree.only.parent, tree.root)), tree.only.name)]
    lower = [(folder, name, name.lower()) for folder, name in every]
    for what, remedy, ends, mark in marks:
        paths = (folder / name for folder, name, low in lower if low.endswith(ends))
        for path in islice(paths, _LOOKED_AT):
            if re.search(mark, tree.ends(tree.root / path)):
                return what, remedy, str(path)
    return None
