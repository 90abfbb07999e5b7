"""Which program wrote a data set, by what is typical of its files."""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from panodetr.data.tree import Tree

_LOOKED_AT = 20
"""Files of each kind."""

_HEAD, _TAIL = 1 << 16, 1 << 12
"""Bytes at the beginning and the end of a file that are looked at."""

_JSON, _XML, _YAML = (".json",), (".xml",), (".yaml", ".yml")

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
    ("CVAT", _XML, rb"<annotation>Unknown</annotation>"),
    ("CVAT", (".txt",), rb"^# label:color_rgb:parts:actions"),
    ("CVAT", (".data",), rb"(?m)^names\s*=\s*(data/)?obj\.names"),
    ("LabelImg", _XML, rb"<source>\s*<database>Unknown</database>\s*</source>"),
    ("Ultralytics", _YAML, rb"(?i)ultralytics"),
)
"""A tool, the suffixes of its files, and what it writes there; the first that is found holds."""

_NAMES = (("Cellpose", r".*_(cp_masks\.\w+|seg\.npy)"),)


def name_tool(tree: Tree) -> str | None:
    """Name the tool that wrote the files of a data set; None where nothing shows it."""
    for tool, suffixes, mark in _MARKS:
        for path in islice(tree.files(*suffixes, depth=4), _LOOKED_AT):
            if re.search(mark, _read(tree, path)):
                return tool
    names = [name for files in tree.folders.values() for name in files]
    return next((t for t, form in _NAMES if any(re.fullmatch(form, n) for n in names)), None)


def _read(tree: Tree, path: PurePosixPath) -> bytes:
    """Read a file's beginning and its end; nothing where it cannot be read."""
    whole = tree.root / path
    try:
        if not whole.is_file():  # a pipe would never end
            return b""
        with whole.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(max(_HEAD, file.seek(0, os.SEEK_END) - _TAIL))
            return head + file.read()
    except OSError:
        return b""
