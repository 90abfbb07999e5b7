"""Whatever happened to an exported file, `panodetr.load` says so in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import panodetr
from panodetr.checkpoints.load import load_checkpoint
from panodetr.errors import CheckpointError, MissingExtra
from panodetr.runtimes.exported import is_exported
from panodetr.runtimes.graphs import load_onnx

Files = dict[str, bytes]
Change = tuple[Callable[[Files], Files], str]
"""What happens to the files, and the reason that is given."""


def unpacked(file: Path) -> Files:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(
    file: Path, files: Files, *, digests: bool = True, packing: int = zipfile.ZIP_STORED
) -> Path:
    """An archive of these files, where its description is told of their digests."""
    if digests:
        others = {name: data for name, data in files.items() if name != "model.json"}
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in others.items()}
        files = described(files, lambda about: about.update(files_sha256=sums))
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file


def described(files: Files, change: Callable[[dict[str, Any]], object]) -> Files:
    """The same files with another description."""
    about = json.loads(files["model.json"])
    change(about)
    return files | {"model.json": json.dumps(about).encode()}


def without(files: Files, *names: str) -> Files:
    return {name: data for name, data in files.items() if name not in names}


def assert_refused(file: Path, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as raised:
        panodetr.load(file)
    assert str(raised.value).startswith(f"{file} is damaged or no exported model: ")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_exported_files_are_told_from_others(tiny_onnx: Path, tmp_path: Path) -> None:
    assert is_exported(tiny_onnx)
    other_order = dict(reversed(unpacked(tiny_onnx).items()))
    assert is_exported(packed(tmp_path / "packed anew", other_order))
    (tmp_path / "text").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert not is_exported(tmp_path / "text")
    assert not is_exported(tmp_path / "weights.pth")
    assert not is_exported(tmp_path / "nowhere")


def swapped(files: Files) -> Files:
    other = {"detect": "masks", "masks": "detect", "model": "model"}
    paths = {Path(name): data for name, data in files.items()}
    return {other[path.stem] + path.suffix: data for path, data in paths.items()}


def about(**changes: Any) -> Callable[[Files], Files]:
    return lambda files: described(files, lambda description: description.update(changes))


def shaped(**changes: int) -> Callable[[Files], Files]:
    """The description of a model of another architecture."""
    return lambda files: described(
        files, lambda description: description["model"]["architecture"].update(changes)
    )


def replaced(name: str, contents: bytes) -> Callable[[Files], Files]:
    return lambda files: files | {name: contents}


MADE_ANEW: list[tuple[str, *Change]] = [
    ("onnx", swapped, "the detect graph takes states"),
    ("openvino", swapped, "the detect graph takes states"),
    ("onnx", about(graphs="openvino"), "is missing"),
    ("openvino", about(graphs="onnx"), "is missing"),
    ("onnx", shaped(num_classes=5), "have 4 logits a query; model.json says 6"),
    ("openvino", shaped(num_classes=5), "have 4 logits a query; model.json says 6"),
    ("onnx", shaped(num_queries=6), "have 5 queries; model.json says 6"),
    ("onnx", replaced("detect.onnx", b"garbage" * 100), "detect: ONNX Runtime does not"),
    ("onnx", replaced("masks.onnx", b""), "masks: ONNX Runtime does not"),
    ("onnx", lambda files: without(files, "masks.onnx"), "'masks.onnx' is missing"),
    ("openvino", replaced("detect.xml", b"<net>"), "detect: OpenVINO does not take it"),
    (
        "openvino",
        lambda files: files | {"masks.bin": files["masks.bin"][:-40]},
        "masks: OpenVINO does not take it",
    ),
    ("openvino", lambda files: without(files, "masks.xml", "masks.bin"), "'masks.xml' is missing"),
    ("openvino", lambda files: without(files, "detect.bin"), "'detect.bin' is missing"),
]
NOT_AS_WRITTEN: list[Change] = [
    (replaced("detect.onnx", b"other"), "detect.onnx is not what was written"),
    (lambda files: without(files, "detect.onnx"), "'detect.onnx' is missing"),
    (replaced("more.onnx", b""), "more.onnx is not in its list"),
    (replaced("model.json", b"{"), "not valid JSON"),
    (replaced("model.json", b"{}"), "missing required field .*format"),
    (replaced("model.json", b"[]"), "expected object, got array"),
    (replaced("model.json", b'{"a":' * 100_000), "nested too deeply"),
    (about(format="other"), "'other'"),
    (about(graphs="tf"), "enum value 'tf'"),
    (about(format_version=2), "newer"),
    (about(files_sha256=[1]), "files_sha256: expec"),
]


@pytest.mark.parametrize(("format", "change", "reason"), MADE_ANEW)
def test_graphs_are_those_of_the_model_that_is_described(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    format: str,
    change: Callable[[Files], Files],
    reason: str,
) -> None:
    files = change(unpacked(request.getfixturevalue(f"tiny_{format}")))
    assert_refused(packed(tmp_path / "file", files), reason)


@pytest.mark.parametrize(("change", "reason"), NOT_AS_WRITTEN)
def test_files_and_description_belong_together(
    tiny_onnx: Path, tmp_path: Path, change: Callable[[Files], Files], reason: str
) -> None:
    files = change(unpacked(tiny_onnx))
    assert_refused(packed(tmp_path / "file", files, digests=False), reason)


def test_packed_anew_it_runs_and_cut_off_or_damaged_it_is_one_line(
    tiny_openvino: Path, tmp_path: Path
) -> None:
    files = unpacked(tiny_openvino)
    file = packed(tmp_path / "file", files, packing=zipfile.ZIP_DEFLATED)
    assert panodetr.load(file).spec.name == "tiny"
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes(100) + whole[middle + 100 :])
    assert_refused(file, "decompress|CRC")
    assert_refused(packed(tmp_path / "lzma", files, packing=zipfile.ZIP_LZMA), "by method 14")
    bomb = files | {"detect.bin": bytes(10_000_000)}
    file = packed(tmp_path / "bomb", bomb, packing=zipfile.ZIP_DEFLATED)
    assert_refused(file, "would unpack to 10,000,000 bytes")
    for left in (50, 1000, -40):
        file.write_bytes(tiny_openvino.read_bytes()[:left])
        assert_refused(file, "not a zip file")
    for flag, reason in ((1, "encrypted"), (0x20, "patch")):  # neither is what Python reads
        broken = bytearray(tiny_openvino.read_bytes())
        with zipfile.ZipFile(tiny_openvino) as archive:
            broken[archive.start_dir + 8] |= flag
        file.write_bytes(broken)
        assert_refused(file, reason)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_bytes_are_one_line_or_do_no_harm(
    tiny_openvino: Path, changes: list[tuple[float, int]]
) -> None:
    """In the description and the archive's list: graphs are held by their digests."""
    data = bytearray(tiny_openvino.read_bytes())
    with zipfile.ZipFile(tiny_openvino) as archive:
        places = [*range(archive.infolist()[1].header_offset), *range(archive.start_dir, len(data))]
    for share, value in changes:
        data[places[round(share * (len(places) - 1))]] = value
    file = tiny_openvino.with_name("changed")
    file.write_bytes(data)
    with suppress(CheckpointError):
        panodetr.load(file)


def test_a_graph_that_does_not_run_is_one_line() -> None:
    onnx = pytest.importorskip("onnx")
    arrays = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n"]) for n in "abc"]
    add = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    graph = onnx.helper.make_graph([add], "sum", arrays[:2], arrays[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    run = load_onnx(model.SerializeToString()).run
    assert run({"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)})["c"].tolist() == [2, 2]
    with pytest.raises(CheckpointError, match="ONNX Runtime cannot run this model: ") as error:
        run({"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_a_missing_library_is_named_and_not_taken_for_damage(
    tiny_onnx: Path, tiny_openvino: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    extra = library.removesuffix("runtime")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'panodetr\[{extra}\]'"):
        panodetr.load(tiny_onnx if extra == "onnx" else tiny_openvino)


def test_an_exported_file_is_no_checkpoint(tiny_openvino: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_openvino, tmp_path / "model.zip")
    with pytest.raises(CheckpointError, match="what `panodetr export` wrote"):
        load_checkpoint(tmp_path / "model.zip")
