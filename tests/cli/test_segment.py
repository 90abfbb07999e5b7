from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tests.process import start

from panodetr.cli import output
from panodetr.errors import ImageWarning

from .conftest import Program


def keeping(panodetr: Program, command: str, model: Path) -> Program:
    """A command, with a model of random weights that keeps whatever it finds."""
    options = "--model", model, "--threshold", "0"
    return lambda *arguments: panodetr(command, *options, *arguments)


@pytest.fixture
def segment(panodetr: Program, tiny_model: Path) -> Program:
    return keeping(panodetr, "segment", tiny_model)


@pytest.fixture
def detect(panodetr: Program, tiny_model: Path) -> Program:
    return keeping(panodetr, "detect", tiny_model)


def objects(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("command", "headings", "kinds"),
    [
        ("segment", ("segment", "label", "kind", "score", "box x0 y0 x1 y1", "area"), 3),
        ("detect", ("label", "score", "box x0 y0 x1 y1"), 2),
    ],
)
def test_a_folder_gives_a_table_and_files_for_each_image(
    panodetr: Program, tiny_model: Path, images: Path, tmp_path: Path, command: str,
    headings: tuple[str, ...], kinds: int,
) -> None:  # fmt: skip
    done = keeping(panodetr, command, tiny_model)(images, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for name in ("a.png", "b.jpg", "c.png"):
        assert re.search(rf"^.*{name}: (\d+ |nothing)", done.stdout, re.MULTILINE)
    for heading in headings:
        assert done.stdout.count(heading) >= (3 if command == "segment" else 1)
    files = re.findall(r"^(?:overlay|id_map|json) +(.+)$", done.stdout, re.MULTILINE)
    assert len(set(files)) == 3 * kinds
    assert all(Path(file).is_file() for file in files)
    assert {Path(file).parent for file in files} == {tmp_path / "out"}
    # Without a terminal, progress is a line per image.
    names = [f"[{i}/3] {images / name}" for i, name in enumerate(("a.png", "b.jpg", "c.png"), 1)]
    lines = [line.split("  (")[0] for line in done.stderr.splitlines()]  # less rate and time left
    assert lines == names


def test_what_cannot_be_read_is_one_line_each_and_the_others_are_done(
    segment: Program, images: Path, tmp_path: Path
) -> None:
    (images / "b.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    done = segment("missing.png", images, "--out", tmp_path / "out")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert [line.startswith("panodetr: error: ") for line in errors] == [True, True]
    assert "missing.png" in errors[0]
    assert str(images / "b.jpg") in errors[1]
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_files_of_folders_that_are_not_images_are_counted(
    segment: Program, images: Path, tmp_path: Path
) -> None:
    for name in ("notes.txt", "more.txt", "scan.CZI", "LICENSE", ".hidden"):
        (images / name).write_bytes(b"x")
    done = segment(images, "--json")
    assert done.returncode == 0
    assert len(objects(done)) == 3
    expected = (
        "skipped, because they are not images, or are results: 2 .txt, 1 without suffix, "
        "1 .czi; files of microscopes must be exported as TIFF, such as by Fiji or the maker's "
        "program"
    )
    assert done.stderr.splitlines()[-1] == expected
    for name in ("a.png", "b.jpg", "c.png"):
        (images / name).unlink()
    done = segment(images)
    assert done.returncode == 1
    assert "no image in this folder" in done.stderr
    assert done.stderr.splitlines()[-1] == expected


def test_json_is_one_object_a_image_and_nothing_else(
    segment: Program, images: Path, tmp_path: Path
) -> None:
    (images / "b.jpg").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    done = segment(images, "--json")
    assert done.returncode == 1
    assert [one["source"] for one in objects(done)] == sorted(map(str, images.iterdir()))
    assert ["error" in one for one in objects(done)] == [False, True, False]
    assert [one.get("files") for one in objects(done)] == [{}, None, {}]
    assert sorted(tmp_path.rglob("*")) == before


def test_images_of_one_name_keep_their_own_files(
    segment: Program, images: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(images / "c.png", other / "a.png")
    with Image.open(images / "b.jpg") as image:
        image.save(images / "a.jpg")
    # An image that is meant several times is segmented once.
    done = segment(images / "a.png", other, "images/a.*", "--json", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    sizes: list[tuple[int, int]] = []
    for one in objects(done):
        files = one["files"]
        assert isinstance(files, dict)
        assert all(Path(path).is_file() for path in files.values())
        with Image.open(files["id_map"]) as id_map:
            sizes.append(id_map.size)
    assert sizes == [(56, 40), (100, 80), (64, 64)]


def test_a_image_whose_name_is_not_text_is_done_and_the_others_too(
    program: Program, tiny_model: Path, images: Path, tmp_path: Path
) -> None:
    with Image.open(images / "a.png") as image:
        image.save(images / os.fsdecode(b"\xff.png"))
    for _ in range(2):  # the second run finds its own files again
        done = program("segment", "--model", tiny_model, images, "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert "\\udcff.png: " in done.stdout
        assert len(list((tmp_path / "out").iterdir())) == 12
    written = json.loads((tmp_path / "out" / os.fsdecode(b"\xff.json")).read_text("utf-8"))
    assert written["source"] == str(images / os.fsdecode(b"\xff.png"))


def test_a_image_with_many_segments_has_a_short_table_and_one_with_none_has_none(
    segment: Program, panodetr: Program, tiny_model: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    done = segment("large.png", "--out", "out")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.endswith(" px")]
    more = re.search(r"^… and (\d+) more, all in the JSON$", done.stdout, re.MULTILINE)
    assert more is not None
    (file,) = (tmp_path / "out").glob("*.json")
    listed = json.loads(file.read_text("utf-8"))["segments_info"]
    assert len(listed) == len(rows) + int(more[1])
    done = panodetr(
        "segment", "large.png", "--model", tiny_model, "--threshold", "1", "--out", "empty"
    )
    assert done.returncode == 0, done.stderr
    assert "large.png: nothing found" in done.stdout
    assert len(list((tmp_path / "empty").iterdir())) == 3


def test_the_tiles_of_a_large_image_are_counted_and_read_by_regions(
    segment: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "TILES_EVERY", 0)
    noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.tif")
    done = segment("large.tif", "--batch", "9")
    assert re.findall(r"^(\d+) of 36 tiles, .* left$", done.stderr, re.M) == ["18", "27", "36"]
    done = segment("large.tif", "none.tif", "--large", "--out", "out", "--task", "instances")
    assert done.returncode == 1
    assert "none.tif: cannot be read by regions (there is no such file)" in done.stderr
    number = re.findall(r"^large.tif: (\d+) objects$", done.stdout, re.M)
    assert [int(number[0])] == [tifffile.imread(tmp_path / "out" / "large_labels.tif").max()]
    features = json.loads((tmp_path / "out" / "large.geojson").read_text())["features"]
    assert len(features) == int(number[0])
    refused = segment("large.tif", "--large", "--csv")
    assert refused.returncode == 2
    assert "leave --csv out" in refused.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        # Without any image, no model is loaded.
        (("missing.png", "--model", "no-such-model"), 1, "missing.png"),
        (("images", "--model", "nucleii"), 1, "did you mean 'nuclei'?"),
        (("a.png", "--task", "semantic", "--threshold", "0.5"), 2, "takes no --threshold"),
        pytest.param(
            ("images", "--device", "cuda"), 2, "",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("images")
def test_what_cannot_be_done_is_one_line(
    panodetr: Program, words: tuple[str, ...], code: int, message: str
) -> None:
    done = panodetr("segment", *words)
    assert done.returncode == code
    assert done.stderr.startswith("panodetr: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_output_folder_that_is_a_file_is_one_line(
    segment: Program, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("precious")
    done = segment(images / "a.png", "--out", tmp_path / "out")
    assert done.returncode == 2
    message = f"--out {tmp_path / 'out'} is a file; expected a folder"
    assert done.stderr == f"panodetr: error: {message}\n"
    assert (tmp_path / "out").read_text() == "precious"


def test_json_of_detections_has_boxes_and_masks_only_where_asked(
    detect: Program, images: Path
) -> None:
    bare = json.loads(detect(images / "a.png", "--json").stdout)
    full = json.loads(detect(images / "a.png", "--json", "--masks").stdout)
    assert bare["files"] == {}
    assert bare["detections"]
    assert all(found["segmentation"] is None for found in bare["detections"])
    assert all(found["segmentation"]["size"] == [40, 56] for found in full["detections"])


@pytest.mark.parametrize("task", ["instances", "semantic"])
def test_segmenting_takes_a_task(
    panodetr: Program, tiny_model: Path, images: Path, task: str
) -> None:
    done = panodetr("segment", images / "a.png", "--model", tiny_model, "--task", task, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["segments_info"]
    labels = [segment["label"] for segment in found]
    if task == "semantic":
        assert len(set(labels)) == len(labels) > 0
        assert sum(segment["area"] for segment in found) == 40 * 56
    else:
        assert set(labels) <= {"nucleus"}


def started(
    model: Path, *arguments: str | Path, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    words = ("-m", "panodetr", "segment", "--model", model, "--json", *arguments)
    return start(*words, more={"TERM": "xterm"}, stderr=stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_on_a_terminal_progress_is_a_bar_and_stdout_stays_clean(
    tiny_model: Path, images: Path
) -> None:
    import pty

    ours, theirs = pty.openpty()
    with started(tiny_model, images, stderr=theirs) as program:
        os.close(theirs)
        shown = b""
        while piece := read_terminal(ours):
            shown += piece
        output, _ = program.communicate()
    os.close(ours)
    assert program.returncode == 0
    assert "3/3" in shown.decode()
    assert len([json.loads(line) for line in output.splitlines()]) == 3


def read_terminal(handle: int) -> bytes:
    try:
        return os.read(handle, 4096)
    except OSError:  # what Linux gives at the end of a terminal
        return b""


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_is_one_line_and_130(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    Image.fromarray(np.zeros((1100, 1100, 3), np.uint8)).save(folder / "a.png")
    Image.fromarray(np.zeros((3000, 3000, 3), np.uint8)).save(folder / "b.png")
    with started(tiny_model, folder) as program:
        assert program.stderr is not None
        assert program.stderr.readline().startswith("[1/2] ")  # the network has the other
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=300)
    assert program.returncode == 130
    assert errors == "panodetr: error: interrupted\n"


def test_formats_of_other_programs_lie_beside_and_share_files(
    segment: Program, images: Path, tmp_path: Path
) -> None:
    out, coco = tmp_path / "out", tmp_path / "coco.json"
    (images / "more").mkdir()
    shutil.copy(images / "b.jpg", images / "more" / "a.png")  # another image of that name
    flags = ("--geojson", "--labels", "--rois", "--csv", "--crops", "--label-studio")
    done = segment(images, "--out", out, "--coco", coco, *flags, "--pixel-size", "0.5")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in out.iterdir()}
    for stem in ("a", "b", "c"):
        endings = (".geojson", "_labels.tif", "_rois.zip", "_crops", "_panoptic.png")
        assert {f"{stem}{ending}" for ending in endings} <= names
    found = json.loads((out / "a.json").read_text("utf-8"))["segments_info"]
    assert len(list((out / "a_crops").iterdir())) == len(found)
    rows = (out / "objects.csv").read_text("utf-8").splitlines()
    assert "area_um2" in rows[0]
    assert sum(row.startswith("a.png,") for row in rows) == len(found)
    tasks = json.loads((out / "label_studio.json").read_text("utf-8"))
    listed = json.loads(coco.read_text("utf-8"))["images"]
    names = ["a.png", "b.jpg", "c.png", "more/a.png"]
    assert [task["data"]["image"] for task in tasks] == names
    assert [image["file_name"] for image in listed] == names
    assert any(row.startswith("more/a.png,") for row in rows)
    panoptic = json.loads((tmp_path / "coco_panoptic.json").read_text("utf-8"))
    assert [a["file_name"] for a in panoptic["annotations"]] == [
        f"{stem}_panoptic.png" for stem in ("a", "b", "c", "a-2")
    ]


def test_bits_and_channels_of_images_are_options(segment: Program, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (40, 50, 5), np.uint16)
    tifffile.imwrite("a.tif", values, photometric="minisblack", planarconfig="contig")
    refused = segment("a.tif", "--out", "out")
    assert refused.returncode == 1
    assert "a.tif has 5 channels, 0 to 4; say which are red" in refused.stderr
    assert segment("a.tif", "--channels", "x").returncode == 2
    with pytest.warns(ImageWarning, match="4,095 of 65,535, so the image is dark; --bits 12"):
        assert segment("a.tif", "--channels", "4,0,2", "--out", "out").returncode == 0
    done = segment("a.tif", "--channels", "4,0,2", "--bits", "12", "--out", "out", "--crops")
    assert done.returncode == 0, done.stderr
    crop = next(Path("out/a_crops").iterdir())
    with Image.open(crop) as image:
        colors = np.asarray(image)[..., :3]
    assert np.abs(colors.reshape(-1, 3).max(axis=0) - 255.0).max() < 5


def test_each_page_of_a_file_is_an_image_or_the_one_asked_for(
    segment: Program, tmp_path: Path
) -> None:
    frames = [Image.new("RGB", (40, 30), (grey, grey, grey)) for grey in (0, 90, 200)]
    frames[0].save(tmp_path / "stack.tif", save_all=True, append_images=frames[1:])
    done = segment("stack.tif", "--json")
    assert [one["image"] for one in objects(done)] == [f"stack_page{n}.tif" for n in (1, 2, 3)]
    done = segment("stack.tif", "--json", "--page", "2", "--out", "out")
    assert [one["image"] for one in objects(done)] == ["stack_page2.tif"]
    assert (tmp_path / "out" / "stack_page2.json").is_file()
    done = segment("stack.tif", "--json", "--page", "9")
    assert done.returncode == 1
    assert "has no page 9; expected 1 to 3" in done.stderr


def test_an_image_that_takes_more_memory_than_it_may_is_refused_before_it_is_decoded(
    panodetr: Program, tiny_model: Path, images: Path
) -> None:
    whole = (images / "c.png").read_bytes()
    (images / "c.png").write_bytes(whole[:100])  # its header alone
    done = panodetr("segment", images, "--model", tiny_model, "--json", "--max-memory", 0.0002)
    assert done.returncode == 1
    assert ["error" in line for line in done.stdout.splitlines()] == [False, False, True]
    errors = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert len(errors) == 1
    assert "c.png: 100x80 is 8,000 pixels, which take about 0.00024 GiB, and the" in errors[0]
    assert "the limit is 6,710; make it smaller, raise --max-memory" in errors[0]
