"""Pipes, devices, sockets, folders and long names where a file is expected: one line, no hang."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.process import python

from .conftest import Program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="these files are POSIX's")


def make_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has 108 bytes at most
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(before)


ODD: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "log": lambda path: path.symlink_to("/proc/kmsg"),  # a file for Linux, which never ends
    "folder": Path.mkdir,
}


@contextmanager
def within(seconds: int) -> Generator[None]:
    """Raise where a block takes longer, as a pipe that nobody writes to does."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def assert_one_line(panodetr: Program, *words: str | Path) -> None:
    with within(30):
        done = panodetr(*words)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert done.returncode in (1, 2)
    assert errors
    assert all(line.startswith("panodetr: error: ") for line in errors), errors


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["a.png", "a.tar", "a.zip", "a.parquet", "a.arrow", "a.mp4"])
def test_an_odd_image_is_one_line(
    panodetr: Program, tiny_model: Path, tmp_path: Path, name: str, kind: str
) -> None:
    ODD[kind](tmp_path / name)
    assert_one_line(panodetr, "segment", name, "--model", tiny_model)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.pth", "model.zip"])
def test_an_odd_model_is_one_line(
    panodetr: Program, tiny_model: Path, images: Path, tmp_path: Path, name: str, kind: str
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / name).unlink(missing_ok=True)
    ODD[kind](model / name)
    path = model if (tiny_model / name).exists() else model / name
    assert_one_line(panodetr, "segment", images / "a.png", "--model", path)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["panoptic_val.json", "panoptic_val/1.png", "val/1.png"])
def test_an_odd_file_of_a_data_set_is_named(
    panodetr: Program, data: Path, name: str, kind: str
) -> None:
    (data / name).unlink()
    ODD[kind](data / name)
    with within(30):
        done = panodetr("data", "check", data)
    assert done.returncode in (0, 1)  # an image that is missing is a note
    assert Path(name).stem in done.stdout + done.stderr


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["found.json", "found/1.png", "panoptic_val.json"])
def test_an_odd_file_of_predictions_is_one_line(
    panodetr: Program, data: Path, name: str, kind: str
) -> None:
    shutil.copy(data / "panoptic_val.json", data / "found.json")
    shutil.copytree(data / "panoptic_val", data / "found")
    (data / name).unlink()
    ODD[kind](data / name)
    truth = ("--ground-truth", data / "panoptic_val.json")
    assert_one_line(panodetr, "eval", "--predictions", data / "found.json", *truth)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(
    "words",
    [
        ("segment", "a.png", "--config", "odd"),
        ("segment", "odd", "--large"),
        ("data", "check", "odd"),
        ("data", "check", "data", "--annotations", "odd"),
        ("convert", "nuclei", "out", "--names", "odd"),
    ],
)
def test_an_odd_file_of_another_option_is_one_line(
    panodetr: Program, data: Path, words: tuple[str, ...], kind: str
) -> None:
    ODD[kind](data.parent / "odd")
    assert_one_line(panodetr, *words)


LIMITED = """
import resource, sys
from panodetr.cli.main import main

resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere files of 8 TB may take 8 TB")
@pytest.mark.parametrize("name", ["found.json", "panoptic_val.json"])
def test_a_json_larger_than_the_memory_is_one_line(data: Path, name: str) -> None:
    shutil.copy(data / "panoptic_val.json", data / "found.json")
    os.truncate(data / name, 8 << 40)
    found, truth = data / "found.json", data / "panoptic_val.json"
    done = python("-c", LIMITED, "eval", "--predictions", found, "--ground-truth", truth)
    assert done.stderr.startswith("panodetr: error: ")
    assert done.stderr.endswith(": it is larger than the memory\n")
    assert done.stderr.count("\n") == 1


def test_a_name_without_room_for_an_ending_costs_that_image_alone(
    panodetr: Program, tiny_model: Path, images: Path
) -> None:
    (images / "a.png").rename(images / f"{'a' * 251}.png")
    done = panodetr("segment", images, "--model", tiny_model, "--out", "out")
    errors = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert done.returncode == 1
    assert len(errors) == 1
    assert errors[0].startswith("panodetr: error: cannot write out/aaa")
    assert errors[0].endswith(": File name too long")
    assert len(list((images.parent / "out").glob("*.json"))) == 2
