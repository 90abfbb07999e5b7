from __future__ import annotations

import json
from pathlib import Path

import pytest

from panodetr.data.tool import name_tool
from panodetr.data.tree import Tree

PADDING = [{"id": number} for number in range(20_000)]
SHAPE = {"label": "cell", "points": [[0, 0], [1, 1]], "shape_type": "rectangle", "flags": {}}
EMPTY = {"contributor": "", "date_created": "", "description": "", "url": "", "version": ""}


@pytest.mark.parametrize(
    ("tool", "name", "contents"),
    [
        (
            "Roboflow",
            "train/_annotations.coco.json",
            {"info": {"description": "Exported from roboflow.com"}},
        ),
        ("Roboflow", "data.yaml", "names: [a]\nroboflow:\n  license: MIT\n"),
        (
            "Roboflow",
            "train/a.xml",
            "<annotation><source><database>roboflow.com</database></source></annotation>",
        ),
        (
            "Label Studio",
            "result.json",
            {"annotations": PADDING, "info": {"contributor": "Label Studio"}},
        ),
        (
            "VGG Image Annotator",
            "train/via_region_data.json",
            {"a.png1": {"regions": [{"region_attributes": {}}]}},
        ),
        (
            "labelme",
            "a.json",
            {"version": "5.1.1", "flags": {}, "shapes": [SHAPE], "imagePath": "a.png"},
        ),
        (
            "X-AnyLabeling",
            "a.json",
            {"version": "2.4.4", "shapes": [SHAPE | {"difficult": False}], "imagePath": "a.png"},
        ),
        ("COCO itself", "instances_val2017.json", {"info": {"url": "http://cocodataset.org"}}),
        ("CVAT", "annotations/instances_default.json", {"licenses": [], "info": EMPTY}),
        ("CVAT", "labelmap.txt", "# label:color_rgb:parts:actions\ncell:1,2,3::\n"),
        ("CVAT", "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n"),
        (
            "LabelImg",
            "a.xml",
            "<annotation><source><database>Unknown</database></source></annotation>",
        ),
        ("Ultralytics", "coco8.yaml", "# Ultralytics YOLO\npath: coco8\n"),
        ("Cellpose", "001_cp_masks.png", ""),
        (None, "instances.json", {"images": [], "annotations": []}),
        (None, "a.txt", "0 0.5 0.5 0.2 0.2\n"),
    ],
)
def test_a_tool_is_known_by_the_marks_in_its_files(
    tmp_path: Path, tool: str | None, name: str, contents: object
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    (tmp_path / "broken.json").write_bytes(b"\xff{")
    assert name_tool(Tree(tmp_path)) == tool
