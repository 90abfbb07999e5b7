from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from .conftest import Program


def test_a_clean_data_set_is_summed_up(panodetr: Program, data: Path) -> None:
    done = panodetr("data", "check", data)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["split", "format", "images", "objects", "classes", "crowds", "empty",
                        "errors"]  # fmt: skip
    assert lines[1] == ["val", "coco-panoptic", "2", "4", "2", "0", "0", "0"]
    assert lines[2:4] == [["classes", "nucleus", "2,", "background", "2"], ["objects", "masks"]]
    assert [line[0] for line in lines[4:]] == ["smallest", "largest", "most"]
    assert "[2/2] check val" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_every_fault_is_listed_and_the_exit_code_is_one(
    panodetr: Program, data: Path, tmp_path: Path
) -> None:
    (data / "val" / "1.png").write_bytes(b"nothing")
    (data / "panoptic_val" / "2.png").write_bytes(b"nothing")
    done = panodetr("data", "check", data, "--split", "val", "--json", "found.json")
    assert done.returncode == 1
    faults = [line for line in done.stdout.splitlines() if line.startswith("error")]
    assert len(faults) == 2
    assert "1.png: not an image" in faults[0]
    assert "2.png cannot be read as an id map" in faults[1]
    written = json.loads((tmp_path / "found.json").read_text())
    assert (written["format"], written["errors"]) == ("coco-panoptic", 2)
    kinds = [finding["kind"] for finding in written["splits"]["val"]["findings"]]
    assert kinds == ["broken file", "broken file"]
    assert panodetr("data", "check", data, "--quiet").stdout.splitlines() == faults


def test_objects_that_are_too_many_for_a_model_are_noted(
    panodetr: Program, tmp_path: Path, tiny_folder: Path
) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    Image.new("RGB", (96, 48)).save(tmp_path / "set" / "images" / "a.png")
    rows = [f"0 {0.1 + number / 20} 0.5 0.04 0.2\n" for number in range(9)]
    (tmp_path / "set" / "labels" / "a.txt").write_text("".join(rows) + "0 0.5 0.5 0.9 0.9\n")
    done = panodetr("data", "check", "set", "--model", tiny_folder)
    assert done.returncode == 0, done.stderr
    assert "1 of 10 objects are larger than a tile of 64 pixels, up to 86" in done.stdout
    assert "and the model has 5 queries" in done.stdout


def test_a_data_set_is_converted_and_checked_again(
    panodetr: Program, data: Path, tmp_path: Path
) -> None:
    done = panodetr("data", "convert", data, "--to", "yolo", "--out", "yolo")
    assert done.returncode == 0, done.stderr
    assert "2 images (val) read as coco-panoptic, written as yolo" in done.stdout
    assert "yolo has no place for segments of stuff: 2" in done.stdout
    assert (tmp_path / "yolo" / "labels" / "val" / "1.txt").read_text().count("\n") == 1
    again = panodetr("data", "check", "yolo")
    assert again.returncode == 0, again.stdout
    assert again.stdout.splitlines()[1].split()[:4] == ["val", "yolo", "2", "2"]


def test_the_tool_and_the_bits_and_channels_of_images_are_listed(
    panodetr: Program, data: Path
) -> None:
    document = data / "panoptic_val.json"
    info = '{"info": {"description": "Exported from roboflow.com"}, '
    document.write_text(document.read_text().replace("{", info, 1))
    grey = np.full((64, 64), 4000, np.uint16)
    Image.fromarray(grey).save(data / "val" / "1.png")
    done = panodetr("data", "check", data)
    assert done.returncode == 0, done.stdout
    assert "tool      Roboflow" in done.stdout
    assert "16-bit images fill 12 bits; training reads them so" in done.stdout
    channels = np.zeros((64, 64, 5), np.uint8)
    tifffile.imwrite(
        data / "val" / "2.tif", channels, photometric="minisblack", planarconfig="contig"
    )
    (data / "val" / "2.png").unlink()
    done = panodetr("data", "check", data)
    assert done.returncode == 0, done.stdout
    assert "2.tif has 5 channels, 0 to 4; say which are red" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_that_are_no_text_are_shown_and_written(program: Program, tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "cells" / part).mkdir(parents=True)
        name = os.path.join(os.fsencode(tmp_path / "cells" / part), b"\xff.png")
        Image.new("L", (8, 8), 1).save(os.fsdecode(name))
    done = program("data", "check", "cells", "--json", "found.json")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    Path(os.fsdecode(name)).write_bytes(b"")
    done = program("data", "check", "cells", "--json", "found.json")
    assert done.returncode == 1
    assert "masks/\\udcff.png cannot be read" in done.stdout
    assert json.loads((tmp_path / "found.json").read_text())["errors"] == 1
    done = program("data", "convert", "cells", "--to", "yolo", "--out", "out")
    assert done.returncode == 1
    assert "masks/\\udcff.png cannot be read" in done.stderr


def test_images_that_are_left_out_are_named(panodetr: Program, data: Path, tmp_path: Path) -> None:
    assert panodetr("data", "convert", data, "--to", "yolo", "--out", "yolo").returncode == 0
    (tmp_path / "yolo" / "images" / "val" / "1.png").write_bytes(b"nothing")
    done = panodetr("data", "convert", "yolo", "--to", "coco-instances", "--out", "back")
    assert done.returncode == 0, done.stderr
    assert "1 images (val) read as yolo" in done.stdout
    assert "left out: yolo/images/val/1.png: not an image" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("check", "nowhere"), 1, "nowhere is no folder"),
        (("check", "data", "--split", "test"), 1, "there is no split 'test'; it has val"),
        (("check", "data", "--format", "yolo"), 1, "holds no data set"),
        (("convert", "data", "--to", "coco-panoptic", "--out", "x"), 2, "already"),
        (("convert", "data", "--to", "yolo", "--out", "data"), 2, "data is there already"),
        (("convert", "data", "--out", "x"), 2, "--to"),
        (("chek", "data"), 2, 'Did you mean "check"?'),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    panodetr: Program, data: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = panodetr("data", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_annotation_file_and_a_folder_of_images_may_be_named(
    panodetr: Program, data: Path, tmp_path: Path
) -> None:
    assert panodetr("data", "convert", data, "--to", "coco-instances", "--out", "c").returncode == 0
    (tmp_path / "c" / "val").rename(tmp_path / "elsewhere")
    (tmp_path / "c" / "instances_val.json").rename(tmp_path / "c" / "marks.json")
    (tmp_path / "c" / "other.json").write_bytes((tmp_path / "c" / "marks.json").read_bytes() + b" ")
    refused = panodetr("data", "check", "c")
    assert refused.returncode == 1
    assert "marks.json and c/other.json are both of no split" in refused.stdout
    named = ("--annotations", "c/marks.json", "--images", "elsewhere")
    done = panodetr("data", "check", "c", *named)
    assert done.returncode == 0, done.stdout
    assert panodetr("data", "check", "c/marks.json", "--images", "elsewhere").returncode == 0


def test_a_clean_copy_holds_what_can_be_used(panodetr: Program, data: Path, tmp_path: Path) -> None:
    assert panodetr("data", "convert", data, "--to", "yolo", "--out", "yolo").returncode == 0
    labels = tmp_path / "yolo" / "labels" / "val" / "1.txt"
    labels.write_text("0 0.5 0.5 nonsense 0.2\n")
    done = panodetr("data", "check", "yolo", "--fix", "clean")
    assert done.returncode == 1
    assert "1 images with all of their objects that can be used are in clean" in done.stdout
    again = panodetr("data", "check", "clean")
    assert again.returncode == 0
    assert again.stdout.splitlines()[1].split()[:3] == ["val", "coco-instances", "1"]
    assert panodetr("data", "check", "yolo", "--fix", "clean").returncode == 2


def test_a_sheet_shows_images_with_their_truth(
    panodetr: Program, data: Path, tmp_path: Path
) -> None:
    done = panodetr("data", "show", data, "--split", "val", "--out", "sheet.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * 256
        colors = sheet.getcolors(sheet.width * sheet.height)
    assert colors is not None
    assert len(colors) > 10
    assert panodetr("data", "show", data, "--out", "sheet.png").returncode == 2
