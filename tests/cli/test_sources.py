"""`segment` and `detect` on archives, standard input and videos, and runs that are resumed."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from .conftest import Program


@pytest.fixture
def shard(images: Path, tmp_path: Path) -> Path:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for image in sorted(images.iterdir()):
            archive.add(image, image.name)
        broken = tarfile.TarInfo("d.png")
        broken.size = 4
        archive.addfile(broken, io.BytesIO(b"none"))
    return path


def test_an_archive_gives_what_its_files_give(
    panodetr: Program, tiny_model: Path, images: Path, shard: Path, tmp_path: Path
) -> None:
    run = "segment", "--model", tiny_model, "--threshold", "0", "--csv", "--coco"
    done = panodetr(*run, tmp_path / "a.json", images, "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    done = panodetr(*run, tmp_path / "b.json", shard, "--out", tmp_path / "b")
    assert done.returncode == 1
    assert f"{shard}/d.png: not an image, or broken" in done.stderr
    assert "[4] " in done.stderr  # nobody knows how many there are
    names = [path.name for path in sorted((tmp_path / "a").iterdir())]
    assert [path.name for path in sorted((tmp_path / "b").iterdir())] == names
    for name in names:
        one, other = ((tmp_path / folder / name).read_bytes() for folder in "ab")
        if name.endswith(".json"):
            first, second = (json.loads(text) for text in (one, other))
            assert second["source"] == f"{shard}/{second['image']}"
            assert first["segments_info"] == second["segments_info"]
        elif not name.endswith(".csv"):
            assert one == other


def test_standard_input(tiny_model: Path, images: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "panodetr", "segment", "-", "--model", str(tiny_model)]
    found = subprocess.run(
        [*command, "--json"],
        input=(images / "a.png").read_bytes(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert json.loads(found.stdout)["source"] == "stdin"


def test_a_resumed_run_leaves_what_is_there(
    panodetr: Program, tiny_model: Path, images: Path, shard: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = "segment", "--model", tiny_model, "--threshold", "0", "--out", out, images, shard
    assert panodetr(*run).returncode == 1
    whole = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    for path in (*out.glob("c[._]*"), *out.glob("c-2[._]*")):  # of the folder, and of the shard
        path.unlink()
    done = panodetr(*run, "--resume")
    assert "4 were done already" in done.stderr
    again = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert again.keys() == whole.keys()
    written = {path.name for path in whole if again[path] != whole[path]}
    ends = (".json", "_panoptic.png", "_overlay.png")
    assert written == {f"{name}{end}" for name in ("c", "c-2") for end in ends}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--resume", "--csv"), "--csv is written from the results of all images"),
        (("--resume", "--json"), "give --out FOLDER"),
        (("--no-recursive",), ""),
    ],
)
def test_options_that_clash(
    panodetr: Program, tiny_model: Path, images: Path, options: tuple[str, ...], text: str
) -> None:
    done = panodetr("segment", images, "--model", tiny_model, *options)
    assert done.returncode == (2 if text else 0)
    assert text in done.stderr


SIDE, RADIUS, FRAMES = 96, 9, 8
STARTS = np.array([[16, 14], [48, 80], [80, 14]])  # y, x
SPEEDS = np.array([[0, 9], [0, -9], [-1, 8]])


def frame(number: int) -> NDArray[np.uint8]:
    """Bright discs on a dark ground, as nuclei in fluorescence; they never touch."""
    ys, xs = np.mgrid[:SIDE, :SIDE]
    pixels = np.full((SIDE, SIDE), 8.0)
    for y, x in STARTS + SPEEDS * number:
        outside = (ys - y) ** 2 + (xs - x) ** 2 - RADIUS**2
        pixels += 120 / (1 + np.exp(outside.clip(max=99) / 9))
    return np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "cells.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.bit_rate = 4_000_000
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for number in range(FRAMES):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame(number), format="rgb24")))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("command", ["segment", "detect"])
def test_objects_of_a_video_keep_their_numbers(
    panodetr: Program, video: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    done = panodetr(command, video, "--out", out, "--csv")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "cells_frames.jsonl", "cells_overlay.mp4", "objects.csv"
    ]  # fmt: skip
    with (out / "objects.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == "nucleus"]
    assert {int(row["frame"]) for row in rows} == set(range(FRAMES))
    assert rows[-1]["image"] == "cells.mp4"
    known: dict[int, str] = {}
    for row in rows:
        centers = STARTS + SPEEDS * int(row["frame"])
        place = np.array([float(row["centroid_y"]), float(row["centroid_x"])])
        which = int(np.abs(centers - place).sum(axis=1).argmin())
        assert np.abs(centers[which] - place).max() < RADIUS
        assert known.setdefault(which, row["track"]) == row["track"]
    assert sorted(known) == [0, 1, 2]
    assert len(set(known.values())) == 3
    records = [json.loads(line) for line in (out / "cells_frames.jsonl").read_text().splitlines()]
    assert [(one["frame"], one["time"]) for one in records[:3]] == [(0, 0), (1, 0.2), (2, 0.4)]
    with av.open(str(out / "cells_overlay.mp4")) as drawn:
        assert drawn.streams.video[0].average_rate == 5
        pictures = [one.to_ndarray(format="rgb24") for one in drawn.decode(video=0)]
    assert len(pictures) == FRAMES
    assert pictures[0].shape[0] >= SIDE
    assert np.ptp(pictures[0].astype(int), axis=2).max() > 60  # there are colours


def test_every_takes_some_frames_and_formats_of_images_are_refused(
    panodetr: Program, tiny_model: Path, video: Path, tmp_path: Path
) -> None:
    run = "detect", video, "--model", tiny_model, "--out", tmp_path / "out", "--every", "4"
    assert panodetr(*run, "--json").returncode == 0
    with av.open(str(tmp_path / "out" / "cells_overlay.mp4")) as drawn:
        assert drawn.streams.video[0].average_rate == 5 / 4
        assert sum(1 for _ in drawn.decode(video=0)) == 2
    done = panodetr(*run, "--resume")
    assert "1 were done already" in done.stderr
    done = panodetr(*run, "--geojson")
    assert done.returncode == 2
    assert "is a video, and --geojson is for images; take --csv" in done.stderr
