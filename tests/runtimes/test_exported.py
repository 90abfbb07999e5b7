from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError
from panodetr.runtimes.exported import ExportInfo, is_exported, read_exported, write_exported


@pytest.fixture
def file(tiny_spec: ModelSpec, tmp_path: Path) -> Path:
    info = ExportInfo(
        spec=tiny_spec, format="onnx", precision="float32", weights="0" * 64,
        versions={"torch": "2.13.0"}, checked={"logits": 1e-6},
    )  # fmt: skip
    write_exported(tmp_path / "model", info, {"detect.onnx": b"graph"})
    return tmp_path / "model"


def rewritten(file: Path, name: str, contents: bytes | None) -> Path:
    """The same archive with other contents of one file, or without it."""
    with zipfile.ZipFile(file) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    del files[name]
    with zipfile.ZipFile(file, "w") as archive:
        for entry, data in (files if contents is None else files | {name: contents}).items():
            archive.writestr(entry, data)
    return file


def test_exported_files_are_told_from_others(file: Path, tmp_path: Path) -> None:
    assert is_exported(file)
    (tmp_path / "text").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert not is_exported(tmp_path / "text")
    assert not is_exported(tmp_path / "weights.pth")
    assert not is_exported(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("detect.onnx", b"other", "detect.onnx is not what was written"),
        ("detect.onnx", None, "'detect.onnx' is missing"),
        ("model.json", b"{", "damaged"),
        ("model.json", b"{}", "'format' is missing"),
        ("model.json", b"[]", "damaged"),
    ],
)
def test_damage_is_one_line_that_names_the_file(
    file: Path, name: str, contents: bytes | None, reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason) as raised:
        read_exported(rewritten(file, name, contents))
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_cut_off_file_is_one_line(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="damaged"):
        read_exported(file)


def test_a_file_of_a_newer_version_says_so(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        text = archive.read("model.json").replace(b'"format_version": 1', b'"format_version": 2', 1)
    with pytest.raises(CheckpointError, match="newer panodetr"):
        read_exported(rewritten(file, "model.json", text))
