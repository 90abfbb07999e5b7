"""Large runs in this process: the rows, the parts, and going on."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import fsspec
import hotcoco
import numpy as np
import pyarrow.parquet
import pytest

import panodetr
from panodetr.cli.main import main
from panodetr.data.masks import read_id_map
from panodetr.images.sources import Source
from panodetr.scale.parts import Output, plan_parts

from .conftest import read_rows

LOCAL = ("--engine", "local", "--part-size", "3", "--quiet")


def sources(*paths: str) -> list[Source]:
    return [Source(path=path) for path in paths]


@pytest.mark.parametrize("kind", ["tiny_folder", "eomt_folder"])
def test_each_image_has_one_row_with_what_the_predictor_finds(
    images: Path,
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, folder = tmp_path / "out", request.getfixturevalue(kind)
    options = ("--model", str(folder), "--threshold", "0.1", "--out", str(out))
    assert main(["segment", str(images), *options, *LOCAL]) == 1
    assert "1 files or images could not be read" in capsys.readouterr().err
    rows = read_rows(out)
    good = [path for path in sorted(images.rglob("*.png")) if path.name != "3.png"]
    assert [row["id"] for row in rows] == [row["source"] for row in rows] == [*map(str, good)]
    model = panodetr.load(folder)
    found = 0
    for row in rows:
        expected = model.segment(row["source"], threshold=0.1)
        size = row["height"], row["width"]
        assert size == expected.segment_ids.shape
        assert len(row["segments"]) == len(expected.segments)
        for entry, segment in zip(row["segments"], expected.segments, strict=True):
            mask = hotcoco.mask.decode({"size": list(size), "counts": entry["counts"].encode()})
            assert np.array_equal(mask, segment.mask)
            assert entry["id"] == segment.id
            assert entry["label"] == segment.label
            assert entry["area"] == segment.area
            assert entry["score"] == pytest.approx(segment.score, rel=1e-5)  # batches round
            found += 1
    assert found > len(rows)
    (errors,) = (out / "errors").iterdir()
    (line,) = map(json.loads, errors.read_text().splitlines())
    assert line["id"] == line["source"] == str(images / "0" / "3.png")
    assert "not an image" in line["error"]
    (first, *_) = sorted(out.glob("part-*.parquet"))
    about = json.loads(pyarrow.parquet.read_schema(first).metadata[b"panodetr"])
    assert about["threshold"] == 0.1
    assert [one["name"] for one in about["categories"]] == [c.name for c in model.spec.categories]


def test_objects_have_rows_too(images: Path, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--model", str(tiny_folder), "--threshold", "0.1", "--out", str(out))
    assert main(["detect", str(images / "1"), *options, *LOCAL]) == 0
    model = panodetr.load(tiny_folder)
    rows = read_rows(out)
    assert len(rows) == 4
    for row in rows:
        expected = model.detect(row["source"], threshold=0.1).detections
        assert [entry["score"] for entry in row["segments"]] == pytest.approx(
            [found.score for found in expected], rel=1e-5
        )
        assert [entry["id"] for entry in row["segments"]] == [found.id for found in expected]
        assert all(entry["counts"] is None for entry in row["segments"])


def test_coco_panoptic_parts_hold_the_same_segments(
    images: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--model", str(tiny_folder), "--threshold", "0.1", "--out", str(out))
    assert main(["segment", str(images), *options, *LOCAL, "--parts", "coco-panoptic"]) == 1
    model = panodetr.load(tiny_folder)
    seen: list[str] = []
    for file in sorted(out.glob("part-*.json")):
        document = json.loads(file.read_text())
        for image, entry in zip(document["images"], document["annotations"], strict=True):
            seen.append(entry["image_id"])
            expected = model.segment(image["file_name"], threshold=0.1)
            size = image["height"], image["width"]
            ids = read_id_map(file.with_suffix("") / entry["file_name"], size)
            assert np.array_equal(ids, expected.segment_ids)
            assert [s["id"] for s in entry["segments_info"]] == [s.id for s in expected.segments]
    assert len(seen) == len(set(seen)) == 8


def test_a_run_goes_on_with_the_parts_that_are_missing(
    images: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["segment", str(images), "--model", str(tiny_folder), "--out", str(out), *LOCAL]
    main(command)
    before = read_rows(out)
    first, second, _ = sorted(out.glob("part-*.parquet"))
    kept = first.stat().st_mtime_ns
    second.unlink()
    capsys.readouterr()
    assert main(command) == 2
    assert "go on with --resume" in capsys.readouterr().err
    main([*command, "--resume"])
    assert read_rows(out) == before
    assert first.stat().st_mtime_ns == kept
    (images / "0" / "0.png").unlink()
    for other in (["--threshold", "0.3"], []):  # another option, other images
        capsys.readouterr()
        assert main([*command, "--resume", *other]) == 2
        assert "not of this run" in capsys.readouterr().err


def test_an_error_that_is_gone_on_resuming_is_removed(
    images: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["segment", str(images), "--model", str(tiny_folder), "--out", str(out), *LOCAL]
    assert main(command) == 1
    (errors,) = (out / "errors").iterdir()
    (out / f"{errors.stem}.parquet").unlink()
    (images / "0" / "3.png").write_bytes((images / "0" / "4.png").read_bytes())
    assert main([*command, "--resume"]) == 0
    assert not errors.exists()
    assert len(read_rows(out)) == 9


def test_an_archive_that_ends_early_keeps_its_images_and_is_named(
    images: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.tar", tmp_path / "cut.tar"
    with tarfile.open(whole, "w") as archive:
        paths = sorted((images / "1").iterdir())
        for path in (*paths, paths[-1]):  # twice, as `tar --append` may
            archive.add(path, path.name)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    out = tmp_path / "out"
    options = ("--model", str(tiny_folder), "--out", str(out), *LOCAL)
    assert main(["segment", str(whole), str(cut), *options]) == 1
    rows = read_rows(out)
    assert len(list(out.glob("part-*.parquet"))) == 2
    assert [row["id"] for row in rows if row["source"] == str(whole)] == [
        f"{whole}/{number}.png" for number in (5, 6, 7, 8, 8)
    ]
    assert 0 < len([row for row in rows if row["source"] == str(cut)]) < 4
    (errors,) = (out / "errors").iterdir()
    assert json.loads(errors.read_text())["source"] == str(cut)


def test_parts_are_named_by_what_they_hold() -> None:
    given = sources("a.jpg", "b.png", "c.tar", "d.jpg", "e.jpg", "f.jpg")
    parts = plan_parts(given, {"threshold": 0.5}, size=2)
    held = [[source.path for source in part.sources] for part in parts]
    assert held == [["a.jpg", "b.png"], ["c.tar"], ["d.jpg", "e.jpg"], ["f.jpg"]]
    names = [part.name for part in parts]
    assert len(set(names)) == 4
    assert names == [part.name for part in plan_parts(given, {"threshold": 0.5}, size=2)]
    others = plan_parts(given, {"threshold": 0.6}, size=2)
    assert not {part.name for part in others} & set(names)
    changed = plan_parts([*sources("x.jpg"), *given[1:]], {"threshold": 0.5}, size=2)
    assert [part.name for part in changed[1:]] == names[1:]
    assert changed[0].name != names[0]


def test_parts_go_to_urls(images: Path, tiny_folder: Path) -> None:
    url = "memory://bucket/run"
    command = ["segment", str(images), "--model", str(tiny_folder), "--out", url, *LOCAL]
    assert main(command) == 1
    files = fsspec.filesystem("memory")
    parts = files.glob("/bucket/run/part-*.parquet")
    assert len(parts) == 3
    with files.open(parts[0]) as file:
        assert pyarrow.parquet.read_table(file).num_rows == 3
    assert len(files.ls("/bucket/run/errors")) == 1
    files.rm(parts[1])
    assert main([*command, "--resume"]) == 1
    assert files.glob("/bucket/run/part-*.parquet") == parts
    files.rm("/bucket", recursive=True)


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = Output(url=str(tmp_path / "file"), suffix=".parquet")
    with pytest.raises(panodetr.PanodetrError, match="cannot write"):
        out.write("part", b"")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["detect", "--parts", "coco-panoptic"], "is for segment"),
        (["segment", "--csv"], "--csv"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    images: Path, tiny_folder: Path, command: list[str], words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    name, *more = command
    assert main([name, str(images), "--model", str(tiny_folder), *LOCAL, *more]) == 2
    assert words in capsys.readouterr().err
