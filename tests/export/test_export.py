from __future__ import annotations

import hashlib
import json
import logging
import sys
import weakref
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from tests.process import python

import panodetr
from panodetr.checkpoints.load import load_checkpoint
from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError, ImageError, MissingExtra, PanodetrError, UsageError
from panodetr.export import export as export_module
from panodetr.export import quantize as quantize_module
from panodetr.export.export import check_outputs, export
from panodetr.export.quantize import calibration_batches, import_nncf
from panodetr.images.preprocess import Preprocessing
from panodetr.images.views import TiledImage, read_tiled
from panodetr.model.config import DetrConfig
from panodetr.model.detr import Detr
from panodetr.results.masks import Masks, NumpyMasks
from panodetr.runtimes.base import Runtime
from panodetr.runtimes.convert import to_openvino
from panodetr.runtimes.exported import ExportFormat

Array = NDArray[np.float32]
SAMPLES = Path(panodetr.__file__).parent / "assets" / "samples"


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_file_is_the_model(
    request: pytest.FixtureRequest, tiny_folder: Path, format: str
) -> None:
    file, folder = request.getfixturevalue(f"tiny_{format}"), tiny_folder
    assert panodetr.load(file).spec == panodetr.load(folder).spec
    with zipfile.ZipFile(file) as archive:
        described = json.loads(archive.read("model.json"))
    assert [c["name"] for c in described["model"]["categories"]] == ["nucleus", "background"]
    assert described["model"]["preprocessing"]["tile"] == 64
    weights = sorted(load_file(folder / "model.safetensors").items())
    parts = (name.encode() + array.tobytes() for name, array in weights)
    assert described["weights_sha256"] == hashlib.sha256(b"".join(parts)).hexdigest()
    for name, digest in described["files_sha256"].items():
        with zipfile.ZipFile(file) as archive:
            assert hashlib.sha256(archive.read(name)).hexdigest() == digest
    assert set(described["checked"]) == {"logits", "boxes", "masks"}
    assert all(0 <= value <= 1e-4 for value in described["checked"].values())


@pytest.mark.parametrize("sigmoid", [False, True])
def test_conditional_queries_are_exported(
    tiny_spec: ModelSpec, tmp_path: Path, sigmoid: bool
) -> None:
    """Layers after the first look elsewhere, so two; export compares batches and sizes itself."""
    shape = replace(
        tiny_spec.architecture, decoder_layers=2, conditional=True, sigmoid=sigmoid,
        masks=not sigmoid,
    )  # fmt: skip
    spec = replace(tiny_spec, architecture=shape)
    save_checkpoint(tmp_path / "model", spec, Detr(shape).state_dict())
    info = export(tmp_path / "model", tmp_path / "file", format="onnx")
    assert all(0 <= value <= 1e-4 for value in info.checked.values())
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    found, own = (
        panodetr.load(tmp_path / name).runtime.detect(image, None) for name in ("file", "model")
    )
    np.testing.assert_allclose(found.logits, own.logits, atol=1e-4)
    assert found.logits.shape == (1, 5, shape.num_logits)
    assert own.logits.std() > 0.1


def test_a_file_reads_bits_and_channels_as_the_model_does(
    tiny_spec: ModelSpec, tiny_folder: Path, tmp_path: Path
) -> None:
    rule = replace(tiny_spec.preprocessing, bits=12, channels=(3, 0, 2))
    spec = replace(tiny_spec, preprocessing=rule)
    save_checkpoint(tmp_path / "model", spec, load_checkpoint(tiny_folder)[1].state_dict())
    export(tmp_path / "model", tmp_path / "file", format="openvino")
    values = np.random.default_rng(0).integers(0, 4096, (64, 70, 4), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    model, file = (panodetr.load(tmp_path / name) for name in ("model", "file"))
    assert file.spec.preprocessing == rule
    results = [one.segment(tmp_path / "a.tif", threshold=0) for one in (model, file)]
    assert (results[0].segment_ids == results[1].segment_ids).mean() > 0.99


def test_an_exported_file_runs_without_torch(tiny_openvino: Path, tmp_path: Path) -> None:
    Image.new("RGB", (70, 64)).save(tmp_path / "image.png")
    code = (
        "import sys; sys.modules['torch'] = None; import panodetr; "
        f"m = panodetr.load({str(tiny_openvino)!r}); "
        f"r = m.segment({str(tmp_path / 'image.png')!r}, threshold=0); "
        f"r.save({str(tmp_path / 'results')!r}); print(r.segment_ids.shape)"
    )
    done = python("-c", code)
    assert done.stderr == ""
    assert done.stdout == "(64, 70)\n"


def test_nncf_prints_no_line_for_every_node() -> None:
    import_nncf()
    assert not logging.getLogger("nncf").isEnabledFor(logging.INFO)


@pytest.mark.slow
def test_int8_reports_how_far_it_agrees(tmp_path: Path) -> None:
    info = export("nuclei", tmp_path / "int8", format="openvino", calibration=SAMPLES)
    assert info.precision == "int8"
    least = {"queries": 50, "same_class": 0.95, "box_iou": 0.9, "mask_iou": 0.9}
    assert all(info.checked[name] > value for name, value in least.items())
    whole = Path(panodetr.__file__).parent / "assets" / "models" / "nuclei" / "model.safetensors"
    assert (tmp_path / "int8").stat().st_size < 2 * whole.stat().st_size  # which has float16
    image = SAMPLES / "fluorescence-large.png"
    a, b = panodetr.load().segment(image), panodetr.load(tmp_path / "int8").segment(image)
    assert abs(len(a.segments) - len(b.segments)) <= 4
    background = (a.segment_ids == 1) == (b.segment_ids == 1)
    assert background.mean() > 0.9


def test_what_cannot_be_meant_is_refused(tiny_openvino: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8 is for --format openvino"):
        export("nuclei", tmp_path / "x", format="onnx", calibration=SAMPLES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty"):
        export("nuclei", tmp_path / "x", format="openvino", calibration=tmp_path / "empty")
    with pytest.raises(UsageError, match="is exported already"):
        export(tiny_openvino, tmp_path / "x", format="openvino")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("missing", "format", "calibration"),
    [
        ("openvino", "openvino", None),
        ("nncf", "openvino", SAMPLES),
        ("onnxscript", "onnx", None),
        ("onnxruntime", "onnx", None),
    ],
)
def test_what_is_missing_or_cannot_be_written_is_said_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    format: ExportFormat,
    calibration: Path | None,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(export_module, "load_checkpoint", None)  # fails if it is called
    extra = "onnx" if missing.startswith("onnx") else "openvino"
    with pytest.raises(MissingExtra, match=rf"pip install 'panodetr\[{extra}\]'"):
        export("nuclei", tmp_path / "x", format=format, calibration=calibration)
    monkeypatch.undo()
    monkeypatch.setattr(export_module, "load_checkpoint", None)
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file" / "x", Path("/proc/x")):
        with pytest.raises(PanodetrError, match=f"cannot write {out}"):
            export("nuclei", out, format=format)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no module resource")
def test_a_full_disk_is_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(PanodetrError, match=r"cannot write the graphs to .*TMPDIR") as raised:
            export(tiny_folder, tmp_path / "x", format="openvino")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


class Changed(Runtime):
    """A runtime, and what it says, whose masks are changed."""

    def __init__(self, runtime: Runtime, change: Callable[[Array], Array]) -> None:
        self.runtime = runtime
        self.change = change

    def detect(self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None) -> Changed:
        self._found = self.runtime.detect(images, padding)
        self.logits, self.boxes = self._found.logits, self._found.boxes
        return self

    def masks(self, queries: Sequence[NDArray[np.intp]]) -> list[Masks]:
        return [NumpyMasks(self.change(own.logits())) for own in self._found.masks(queries)]


def test_a_quantised_model_must_answer_every_size_with_as_many_numbers(tiny_folder: Path) -> None:
    model = panodetr.load(tiny_folder, device="cpu").runtime
    larger = Changed(model, lambda masks: masks * 1.5)
    assert check_outputs(model, larger, masks=True, tolerance=inf)["masks"] == pytest.approx(0.5)
    cases: list[tuple[Callable[[Array], Array], str]] = [
        (lambda masks: masks * np.float32("nan"), "gives masks with NaN or infinity at 1x128x160"),
        (lambda masks: masks[..., ::2], r"masks are \(3, 32, 20\), not \(3, 32, 40\)"),
    ]
    for change, message in cases:
        with pytest.raises(CheckpointError, match=message):
            check_outputs(model, Changed(model, change), masks=True, tolerance=inf)


def test_int8_begins_with_graphs_that_are_the_model(
    tiny_folder: Path, tiny_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = to_openvino(Detr(tiny_spec.architecture), tiny_spec.preprocessing)

    def other_graphs(model: Detr, rule: Preprocessing) -> Any:
        return other

    monkeypatch.setattr(export_module, "to_openvino", other_graphs)
    monkeypatch.setattr(export_module, "quantize", None)  # fails if it is called
    with pytest.raises(CheckpointError, match=r"logits differ by .* at 1x128x160"):
        export(tiny_folder, tmp_path / "x", format="openvino", calibration=SAMPLES)


def test_what_int8_keeps_in_float_must_be_there(
    tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = replace(tiny_spec.architecture, masks=False)
    for architecture in (tiny_spec.architecture, boxes):
        graphs = to_openvino(Detr(architecture), tiny_spec.preprocessing)
        kept = {DetrConfig: (".*stem.*", ".*renamed.*")}
        monkeypatch.setattr(quantize_module, "KEPT_FLOAT", kept)
        with pytest.raises(CheckpointError, match=r"int8 keeps '\.\*renamed\.\*' in float32"):
            quantize_module.quantize(graphs, tiny_spec, [])
        monkeypatch.undo()
        with pytest.raises(Exception, match="Subset size"):  # NNCF's: there are no images
            quantize_module.quantize(graphs, tiny_spec, [])


def test_few_images_to_calibrate_with_are_told(
    tiny_spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for count, told in ((3, True), (13, False)):
        for number in range(count):
            Image.new("RGB", (64, 64)).save(tmp_path / f"{count} {number}.png")
        caplog.clear()
        assert len(calibration_batches(tmp_path, tiny_spec)) == (3 if told else 16)
        assert told == ("has 3 images (or tiles of images) to calibrate with" in caplog.text)


def test_views_to_calibrate_with_are_spread_and_images_read_one_by_one(
    tiny_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):  # each in two tiles
        Image.new("L", (64, 80), 30 * number).save(tmp_path / f"{number}.png")
    read: list[weakref.ref[TiledImage]] = []

    def watched(image: Path, rule: Preprocessing) -> TiledImage:
        assert [earlier for earlier in read if earlier() is not None] == []
        found = read_tiled(image, rule)
        read.append(weakref.ref(found))
        return found

    monkeypatch.setattr(quantize_module, "read_tiled", watched)
    monkeypatch.setattr(quantize_module, "CALIBRATION_VIEWS", 4)
    batches = calibration_batches(tmp_path, tiny_spec)
    assert [batch.shape for batch in batches] == [(1, 64, 64, 3)] * 4
    assert [int(batch.max()) // 30 for batch in batches] == [0, 2, 4, 6]
    assert len(read) == 4
