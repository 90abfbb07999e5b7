from __future__ import annotations

import json
from pathlib import Path

import pytest

from panodetr.data.dataset import Source
from panodetr.data.tool import name_tool
from panodetr.data.tree import Tree
from panodetr.errors import DataError

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


@pytest.mark.parametrize(
    ("name", "contents", "advice"),
    [
        ("export.zip", "PK", "is an archive: unpack it"),
        ("marks/a.xml", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a_seg.npy", "", "is an array, perhaps Cellpose's: save masks as PNG"),
        ("masks/a.npz", "", "is an array"),
        ("masks/a.mat", "", "is MATLAB's"),
        ("annotations.xml", "<annotations><version>1.1</version>", "not COCO 1.0"),
        ("a.json", '{"info": {"description": "ISAT"}, "objects": []}', "is ISAT's"),
        ("a.json", '{"label": {"segmentation_bitmap": {}}}', "is Segments.ai's"),
        ("labels.json", '{"classes": [], "a": [{"bounding_box": [0.1]}]}', "is FiftyOne's"),
        ("objectInfo150.txt", "Idx\tRatio\n", "names ADE20K's"),
        ("a_bbx_gt.txt", "0--P/a.jpg\n1\n4 5 20 15 0 0 0 0 0 0\n", "-if wider_face"),
        ("annotations/a.txt", "4,5,20,15,1,4,0,0\n", "is VisDrone's"),
        ("boxes.csv", "image;x1;y1;x2;y2\n", "is a table of boxes"),
        ("ann/a.jpg.json", '{"objects": [{"classTitle": "cat"}]}', "is Supervisely's"),
        ("a.json", '[{"task_id": "1", "response": {}}]', "is Scale's"),
        ("a.json", '{"label_classes": [], "images": [{"labels": [{"bbox": []}]}]}', "is Hasty's"),
        ("a.json", '{"schema_ref": "https://x.org/darwin_json/2.0/"}', "is V7's"),
        ("a.json", '{"instances": [{"className": "cat"}]}', "is SuperAnnotate's"),
        ("train.csv", "ImageId,EncodedPixels\na.jpg,1 3 5 2\n", "is a table of run lengths"),
        ("a.json", '{"images": [{}], "annotations": [{"bbox": []}]}', "a.json lacks categories"),
        ("a.json", '[{"x": {"rectanglelabels": ["cat"]}}]', "is Label Studio's own JSON"),
        ("train/_annotations.csv", "filename,class,xmin,ymin,xmax,ymax\n", "is a table of boxes"),
        ("train/_classes.csv", "Pixel Value, Class\n0, cat\n", "without objects"),
        ("labels.csv", "cat,4,5,20,15,a.jpg,64,48\n", "is a table of boxes"),
        (
            "label_2/000001.txt",
            "Car 0.00" + " 1.5" * 13 + "\n",
            "datum convert -i FOLDER -if kitti",
        ),
        ("labelTxt/a.txt", "gsd:0.1\n" + "4.0 " * 8 + "plane 0\n", "is DOTA's"),
        ("notes.csv", "name,age\n", "expected one of these"),
        ("a.json", '[{"type": "Feature", "geometry": {}}]', "is GeoJSON: export a label image"),
        ("a.json", '{"annotations": [{"bounding_box": {"h": 3}, "name": "cat"}]}', "is V7's"),
        ("a.json", '[{"file_name": "a", "annotations": [{"bbox_mode": 0}]}]', "is Detectron2's"),
        ("a.json", '[{"filename": "a", "ann": {"bboxes": []}}]', "is MMDetection's"),
        ("train/a.jsonl", '{"image": "a", "suffix": "<loc0100> cat"}', "is of a language model"),
        ("metadata.jsonl", '{"image": "a", "objects": {"bbox": []}}', "lacks file_name"),
        ("a.xml", "<Annotations><Annotation/></Annotations>", "is Aperio's"),
        ("a/1.roi", "Iout", "is a region of ImageJ's"),
        ("labels/1.txt", "1\n76 45 146 87\n", "is BBox-Label-Tool's"),
        ("labels/a.txt", '108 225 132 0 1 0 0 1 3 "F"\n', "expected one of these"),
        ("gt.txt", "a.jpg,4,5,20,15,cat\n", "lists boxes of several images"),
        ("imagesTr/a.nii.gz", "", "is a volume: save its slices"),
        ("gt/gt.txt", "1,1,10,20,5,5,1,1,0.9\n", "-if mot_seq"),
        ("label_colors.txt", "0 0 0 background\n80 80 80 cat\n", "names colours of classes"),
        ("gtFine/a_instanceIds.png", "", "datum convert -i FOLDER -if cityscapes"),
        ("masks/a.jpg", "", "masks/a.jpg is a JPEG, which blurs ids"),
        ("SegmentationClass/a.png", "", "export SegmentationObject beside it"),
    ],
)
def test_what_has_no_reader_is_told_what_to_export(
    tmp_path: Path, name: str, contents: str, advice: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(contents)
    with pytest.raises(DataError, match="holds no data set") as caught:
        Source(tmp_path).choose(None, None)
    assert advice in str(caught.value)
