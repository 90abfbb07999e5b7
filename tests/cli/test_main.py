from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.process import python, start

import panodetr as package

from .conftest import Program

COMMANDS = ("segment", "detect", "eval", "data", "train", "recipes", "models", "convert", "export")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count a child's time")
def test_help_lists_every_command_and_takes_at_most_half_a_second(program: Program) -> None:
    import resource

    # Of the processor, not of the clock: other programs may be running.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = program("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert all(f"│ {command} " in done.stdout for command in COMMANDS)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_version_and_help_of_every_command(panodetr: Program) -> None:
    done = panodetr("--version")
    assert (done.returncode, done.stdout) == (0, f"panodetr {package.__version__}\n")
    for command in COMMANDS:
        done = panodetr(command, "--help")
        assert done.returncode == 0
        assert done.stdout.startswith(f"Usage: panodetr {command}")


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["segment", "--help"], {"torch", "numpy", "PIL", "scipy"}),
        (["models"], {"torch", "scipy"}),
    ],
)
def test_what_only_tells_brings_no_heavy_package(arguments: list[str], heavy: set[str]) -> None:
    code = (
        "import sys\n"
        "from panodetr.cli.main import main\n"
        f"try: main({arguments})\n"
        "except SystemExit: pass\n"
        f"print({heavy} & set(sys.modules))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\nset()\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmnt"], 'Did you mean "segment"?'),
        (["segment"], "INPUT"),
        (["segment", "a.png", "--treshold", "1"], "Did you mean --threshold?"),
        (["segment", "a.png", "--threshold", "half"], 'unable to convert "half" into float'),
        (["segment", "a.png", "--threshold", "1.01"], '"1.01" for --threshold. Must be <= 1'),
        (["segment", "a.png", "--threshold", "-0.1"], '"-0.1" for --threshold. Must be >= 0'),
        (["segment", "a.png", "--threshold", "nan"], '"nan" for --threshold. Must be <= 1'),
        (["segment", "a.png", "--device", "tpu"], "device is 'tpu'; expected auto, cpu, cuda"),
        (["train", "nuclei"], "--data"),
    ],
)
def test_arguments_that_cannot_be_meant_are_exit_code_2(
    panodetr: Program, arguments: list[str], message: str
) -> None:
    done = panodetr(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_one_line_and_with_debug_a_traceback(program: Program) -> None:
    arguments = ("eval", "--data", "nowhere", "--out", "out")
    done = program(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("panodetr: error: nowhere ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" in program("--debug", *arguments).stderr


LONG = "a" * 300  # a longer name than any file may have


@pytest.mark.skipif(sys.platform == "win32", reason="Windows says that there is no such file")
@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", LONG),
        ("eval", "--model", "nuclei", "--data", LONG),
        ("data", "check", LONG),
        ("export", LONG, "--format", "onnx", "--out", "a.zip"),
        ("convert", "nuclei", LONG),
        ("train", "nuclei", "--data", LONG),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_name_that_is_too_long_is_one_line(panodetr: Program, arguments: tuple[str, ...]) -> None:
    done = panodetr(*arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert LONG in done.stderr
    assert "File name too long" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such exit code")
@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["models"],
        ["recipes"],
        ["segment", "images", "--model", "{model}"],
        ["detect", "images", "--model", "{model}", "--json"],
        ["eval", "--model", "{model}", "--data", "data", "--out", "out"],
        ["convert", "{model}", "out"],
        ["export", "{model}", "--format", "onnx", "--out", "model.onnx.zip"],
        ["train", "nuclei", "--data", "data", "--val", "none", "--set", "steps=1"],
        ["data", "check", "data"],
        ["data", "show", "data", "--out", "sheet.png"],
        ["data", "convert", "data", "--to", "yolo", "--out", "out"],
    ],
    ids=lambda command: "-".join(word for word in command[:2] if word[0] != "-"),
)
def test_a_reader_that_leaves_is_no_error_of_any_command(
    images: Path, data: Path, tiny_model: Path, command: list[str]
) -> None:
    assert images.name, data.name
    words = [word.format(model=tiny_model) for word in command]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as gone:
        done = python("-m", "panodetr", *words, cwd=images.parent, stdout=gone, stderr=gone)
    assert done.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = python("-m", "panodetr", "--version", stdout=full)
    line = "panodetr: error: cannot write standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_ctrl_c_while_the_program_is_imported_is_no_traceback() -> None:
    code = (
        "import sys\n"
        "from panodetr.__main__ import run\n"
        "class Press:\n"
        "    def find_spec(self, *_): raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Press())\n"
        "run()"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send it to one process")
def test_the_second_ctrl_c_ends_a_computation_that_hears_none() -> None:
    code = (
        "import ctypes\n"
        "from panodetr.cli import main\n"
        "main.ONE_PRESS = 0\n"
        "def compute(_):\n"
        "    print('ready', flush=True)\n"
        "    while True: ctypes.CDLL(None).usleep(10000000)\n"
        "main.main = compute\n"
        "import signal\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "main.run()"
    )
    with start("-c", code) as deaf:
        assert deaf.stdout is not None
        deaf.stdout.readline()
        for _ in range(2):
            deaf.send_signal(signal.SIGINT)
            time.sleep(0.2)  # two that wait together are one
        try:
            _, errors = deaf.communicate(timeout=60)
        finally:
            deaf.kill()
    assert (deaf.returncode, errors) == (130, "panodetr: error: interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_in_an_import_waits_for_its_end(tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text(
        "import os, signal\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError\n"  # as libraries in C do
    )
    code = (
        "from panodetr.cli import main\n"
        "def work():\n"
        "    import library, time\n"
        "    print('imported', flush=True)\n"
        "    time.sleep(60)\n"
        "main.build_app = work\n"
        "main.run()"
    )
    done = python("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (130, "imported\n"), done.stderr
    assert done.stderr == "panodetr: error: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets nobody cut off a mapped file")
def test_a_mapped_file_that_is_cut_off_is_one_line(tmp_path: Path) -> None:
    code = (
        "import os, torch\n"
        "from panodetr.cli import main\n"
        "def copy(_):\n"
        "    mapped = torch.from_file('file', size=1 << 20, dtype=torch.uint8, shared=True)\n"
        "    os.truncate('file', 100)\n"
        "    mapped.clone()\n"
        "main.main = copy\n"
        "main.run()"
    )
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "panodetr: error: a file was cut off while it was read; try it again\n"
