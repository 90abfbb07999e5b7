from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from .conftest import Program


@pytest.fixture
def detect(panodetr: Program, tiny_model: Path) -> Program:
    """The command, with a model of random weights that keeps whatever it finds."""
    return lambda *arguments: panodetr(
        "detect", "--model", tiny_model, "--threshold", "0", *arguments
    )


def test_a_folder_gives_a_table_and_two_files_a_image(
    detect: Program, images: Path, tmp_path: Path
) -> None:
    done = detect(images, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for name in ("a.png", "b.jpg", "c.png"):
        assert re.search(rf"^.*{name}: (\d+ |nothing)", done.stdout, re.MULTILINE)
    for heading in ("label", "score", "box x0 y0 x1 y1"):
        assert heading in done.stdout
    files = [Path(path) for path in re.findall(r"^(?:overlay|json) +(.+)$", done.stdout, re.M)]
    assert len(set(files)) == 6
    assert all(file.is_file() and file.parent == tmp_path / "out" for file in files)


def test_json_has_boxes_and_masks_only_where_asked(detect: Program, images: Path) -> None:
    bare = json.loads(detect(images / "a.png", "--json").stdout)
    full = json.loads(detect(images / "a.png", "--json", "--masks").stdout)
    assert bare["files"] == {}
    assert bare["detections"]
    assert all(found["segmentation"] is None for found in bare["detections"])
    assert all(found["segmentation"]["size"] == [40, 56] for found in full["detections"])


def test_a_broken_image_is_one_line_and_the_others_are_done(detect: Program, images: Path) -> None:
    (images / "b.jpg").write_bytes(b"")
    done = detect(images, "--json")
    assert done.returncode == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [("error" in one) for one in found] == [False, True, False]
    assert done.stderr.count("panodetr: error: ") == 1


@pytest.mark.parametrize("task", ["instances", "semantic"])
def test_segment_takes_a_task(panodetr: Program, tiny_model: Path, images: Path, task: str) -> None:
    done = panodetr("segment", images / "a.png", "--model", tiny_model, "--task", task, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["segments_info"]
    labels = [segment["label"] for segment in found]
    if task == "semantic":
        assert len(set(labels)) == len(labels) > 0
        assert sum(segment["area"] for segment in found) == 40 * 56
    else:
        assert set(labels) <= {"nucleus"}
