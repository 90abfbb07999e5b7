"""Disks that are full or read-only: whole files or none, and one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Mounted = Callable[..., "subprocess.CompletedProcess[str]"]

SCRIPT = """
mount -t tmpfs -o size=$1 none "$2" || exit 99
mkdir "$2/old" "$2/out"
[ -z "$3" ] || mount -o remount,ro "$2"
shift 3
"$@"
code=$?
cp -r "$PWD/disk" "$PWD/after"
exit $code
"""


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    """The program, with a small disk of its own at `disk`, whose files are in `after` then."""

    def run(
        *arguments: str | Path, size: str = "1m", read_only: bool = False
    ) -> subprocess.CompletedProcess[str]:
        unshare = shutil.which("unshare")
        if unshare is None or os.geteuid() != 0:
            pytest.skip("only root may mount a disk")
        (tmp_path / "disk").mkdir()
        mount = [unshare, "-m", "sh", "-c", SCRIPT, "sh", size, tmp_path / "disk"]
        program = [sys.executable, "-m", "panodetr", *arguments]
        done = subprocess.run(
            [*mount, "ro" if read_only else "", *program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if done.returncode == 99:
            pytest.skip(f"no disk can be mounted here: {done.stderr}")
        return done

    return run


def test_on_a_full_disk_every_file_is_whole_or_missing(
    mounted: Mounted, tiny_model: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.jpg", "b.png", "c.jpg"):
        Image.fromarray(noise).save(images / name)
    done = mounted("segment", images, "--model", tiny_model, "--out", "disk/out", size="1500k")
    errors = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert done.returncode == 1
    assert errors
    assert all(
        line.startswith(f"panodetr: error: cannot write disk{os.sep}out{os.sep}")
        and line.endswith("No space left on device")
        for line in errors
    )
    written = sorted((tmp_path / "after" / "out").iterdir())
    assert written
    for path in written:
        assert not path.name.startswith(".")
        if path.suffix == ".json":
            assert path.read_text().endswith("}\n")
        else:
            with Image.open(path) as picture:
                picture.load()
            if path.suffix == ".jpg":  # Pillow fills in what is missing of one
                assert path.read_bytes().endswith(b"\xff\xd9")


@pytest.mark.parametrize(
    "command",
    [
        ["segment", "images/a.png", "--out", "{}"],
        ["segment", "images/a.png", "--out", "{}", "--engine", "local"],
        ["segment", "images/a.png", "--out", "{}", "--large"],
        ["segment", "images/a.png", "--json", "--coco", "{}/coco.json"],
        ["detect", "images/a.png", "--out", "{}"],
        ["eval", "--data", "data", "--out", "{}"],
        ["convert", "nuclei", "{}/model"],
        ["export", "nuclei", "--format", "onnx", "--out", "{}/model.onnx.zip"],
        ["train", "finetune", "--data", "data", "--out", "{}"],
        ["data", "check", "data", "--json", "{}/check.json"],
        ["data", "check", "data", "--fix", "{}"],
        ["data", "show", "data", "--out", "{}/sheet.png"],
        ["data", "convert", "data", "--to", "yolo", "--out", "{}/yolo"],
    ],
    ids=lambda command: "-".join(word for word in command if word[0] not in "{-/")[:20],
)
def test_an_output_that_cannot_be_written_is_one_line_before_any_work(
    mounted: Mounted, images: Path, data: Path, command: list[str]
) -> None:
    assert images.name, data.name
    words = [word.format("disk/new/folder") for word in command]
    done = mounted(*words, read_only=True)
    assert done.returncode == 1
    assert done.stdout == ""
    line = done.stderr.removesuffix("\n")
    assert "\n" not in line
    assert line.startswith("panodetr: error: cannot write ")
    assert "disk/new/folder" in line
    assert line.endswith(": Read-only file system")
