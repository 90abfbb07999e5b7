"""Every command where libraries are missing: a result, or one line that says what to install."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.process import python

# What the extras plots, openvino, onnx and train bring, but ONNX Runtime.
EXTRAS = ("matplotlib", "openvino", "nncf", "onnx", "onnxscript", "accelerate", "tensorboard")
# What the install of docs/how-to/deploy.md leaves out.
WITHOUT_TORCH = (
    "torch", "safetensors", "scipy", "hotcoco", "huggingface_hub", "yaml", "filelock", *EXTRAS
)  # fmt: skip

# The model that is on the hub alone is not cached; all else fails for a library only.
ONE_LINE = r"panodetr: error: [^\n]*(pip install \S|owner/name)[^\n]*\n"

# Runs each of the commands in JSON and prints exit codes and errors.
RUN = """
import contextlib, io, json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
from panodetr.cli.main import main
answers = []
for arguments in json.loads(sys.argv[2]):
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(arguments)
    answers.append((code, errors.getvalue()))
print(json.dumps(answers))
"""


def commands(model: Path, images: Path, data: Path) -> list[list[str]]:
    made = images.parent
    return [
        line.split()
        for line in (
            "--help",
            f"segment {images} --model {model} --json",
            f"segment {images} --model owner/name --json",
            f"segment {images} --model {model} --runtime onnx --json",
            f"segment {images} --model {model} --runtime openvino --json",
            f"detect {images} --model {model} --json",
            f"eval --model {model} --data {data} --out {made / 'report'}",
            f"data check {data}",
            f"data convert {data} --out {made / 'converted'} --to yolo",
            f"train nuclei --data {data} --dry-run --out {made / 'run'}",
            "recipes",
            "models",
            f"convert {model} {made / 'copy'}",
            f"export {model} --format onnx --out {made / 'a.zip'}",
            f"export {model} --format openvino --out {made / 'b.zip'}",
        )
    ]


def run(missing: Sequence[str], lines: list[list[str]], folder: Path) -> list[tuple[int, str]]:
    given = json.dumps(missing), json.dumps(lines)
    done = python("-c", RUN, *given, cwd=folder, more={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "missing", [WITHOUT_TORCH, (*EXTRAS, "onnxruntime")], ids=["torch", "extras"]
)
def test_no_command_ends_in_a_traceback(
    missing: tuple[str, ...], tiny_model: Path, images: Path, data: Path, tmp_path: Path
) -> None:
    lines = commands(tiny_model, images, data)
    faults = [
        (line, code, errors)
        for line, (code, errors) in zip(lines, run(missing, lines, tmp_path), strict=True)
        if code != 0 and not (code == 1 and re.fullmatch(ONE_LINE, errors))
    ]
    assert not faults


def test_an_exported_model_runs_without_torch(
    tiny_onnx: Path, images: Path, tmp_path: Path
) -> None:
    lines = [
        ["segment", str(images), "--model", str(tiny_onnx), "--out", str(tmp_path / "out")],
        ["detect", str(images), "--model", str(tiny_onnx), "--masks", "--json"],
        ["models"],
    ]
    (segmented, detected, listed) = run(WITHOUT_TORCH, lines, tmp_path)
    assert (segmented[0], detected[0]) == (0, 0), (segmented, detected)
    assert "Traceback" not in listed[1]
