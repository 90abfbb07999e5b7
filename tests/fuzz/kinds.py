"""What is damaged: models, images, data sets, files of evaluation; and what reads each."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.cli.conftest import write_data
from tests.conftest import make_eomt, make_tiny_spec, telling_model
from tests.data.test_formats import WRITERS, Picture

from panodetr.checkpoints.huggingface import RESNETS
from panodetr.checkpoints.save import save_pretrained
from panodetr.cli.main import main
from panodetr.data.check import check_split
from panodetr.data.dataset import Source
from panodetr.errors import PanodetrError
from panodetr.export.export import export
from panodetr.images.sources import each_image, find_sources
from panodetr.loading import load
from panodetr.model.detr import Detr
from panodetr.predict import Predictor
from panodetr.runtimes.exported import ExportFormat

SAID = ("panodetr: error: ", "panodetr: warning: ", "[")
"""How lines on stderr begin; the last are of progress."""

EXPORTED = ("onnx", "openvino", "int8", "eomt onnx", "eomt openvino", "eomt int8")

MADE = (
    Picture("image 0", (20, 30), (("no", (1, 1, 5, 4)), ("zebra", (17, 12, 6, 5)))),
    Picture("image 1", (24, 18), (("zebra", (2, 2, 4, 4)),)),
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Files of one kind.

    Attributes:
        make: writes whole ones into a folder, and the tiny model beside them at `../models`.
        damaged: patterns of those that are damaged.
        run: reads them; raises what must not happen.
    """

    make: Callable[[Path], Any]
    damaged: tuple[str, ...]
    run: Callable[[Path], None]


def make_models(folder: Path, chosen: Collection[str] = ()) -> None:
    """Write the tiny models in every format into a folder, or of exported ones those chosen."""
    spec = make_tiny_spec()
    model = telling_model(spec)
    save_pretrained(folder / "panodetr" / "model", spec, model)
    save_pretrained(folder / "huggingface" / "model", spec, model, format="huggingface")
    shape = replace(spec.architecture, backbone=RESNETS["resnet18"])  # the original has no smaller
    target = folder / "facebook" / "model.pth"
    save_pretrained(target, replace(spec, architecture=shape), Detr(shape), format="facebook")
    spec, eomt = make_eomt()
    stored = replace(spec, class_thresholds={"a": 0.4, "d": 0.0})
    save_pretrained(folder / "eomt" / "model", stored, eomt)
    save_pretrained(folder / "eomt huggingface" / "model", stored, eomt, format="huggingface")
    images = folder / "images"
    images.mkdir()
    _make_image(images, "image.png")
    for name in EXPORTED:
        model = folder / ("eomt" if name.startswith("eomt") else "panodetr") / "model"
        format: ExportFormat = "onnx" if name.endswith("onnx") else "openvino"
        calibration = images if name.endswith("int8") else None
        (folder / name).mkdir()
        if not chosen or name in chosen:  # they take the longest
            with contextlib.redirect_stderr(io.StringIO()):  # NNCF's progress bars
                export(model, folder / name / "model.zip", format=format, calibration=calibration)


def _command(*words: str) -> Callable[[Path], None]:
    """Run a command in a folder; it must end with a result, or with errors of one line each."""

    def run(folder: Path) -> None:
        said, printed = io.StringIO(), io.StringIO()
        hear = contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said)
        with contextlib.chdir(folder), hear[0], hear[1]:
            code = main(words)
        lines = said.getvalue().splitlines()
        assert code in (0, 1, 2), f"exit code {code}"
        if code:
            wrong = [line for line in lines if not line.startswith(SAID)]
            assert not wrong, f"exit code {code}: {wrong}"
            found = any(line.startswith(SAID[0]) for line in lines)
            assert found or "\nerror " in printed.getvalue(), f"exit code {code}, no error"

    return run


def _check(folder: Path) -> None:
    """Check a data set: no object is lost in silence, no message breaks a terminal."""
    refused = ""
    try:
        source = Source(folder)
        format, splits = source.splits(None)
        there = sum(len(image.objects) for image in MADE)
        if format == "yolo":  # one line less is one object less
            texts = [path.read_bytes() for path in folder.rglob("image *.txt")]
            there = min(there, sum(bool(line.strip()) for t in texts for line in t.splitlines()))
        for split in splits:
            found = check_split(source, split, format, lambda done, total: None)
            lost = there - found.objects.total()
            if format != "mask-files":  # one file less is one object less
                assert lost <= 0 or found.findings, f"{lost} objects lost in silence"
            for finding in found.findings:
                assert finding.message.isprintable(), finding.message
    except PanodetrError as error:
        refused = str(error)
    assert "\n" not in refused, refused


@cache
def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def _make_image(folder: Path, name: str, **options: Any) -> None:
    _noise().save(folder / name, **options)


def _make_wide(folder: Path) -> None:
    import tifffile

    values = np.asarray(_noise()).astype(np.uint16) * 257
    tifffile.imwrite(folder / "image.tif", values, photometric="rgb", planarconfig="contig")


def _make_archive(folder: Path, name: str) -> None:
    packed = io.BytesIO()
    _noise().save(packed, "PNG")
    if name.endswith(".tar"):
        with tarfile.open(folder / name, "w") as tar:
            member = tarfile.TarInfo("a.png")
            member.size = len(packed.getvalue())
            tar.addfile(member, io.BytesIO(packed.getvalue()))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.png", packed.getvalue())
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"image": [packed.getvalue()]}), folder / name)


def _make_predictions(folder: Path) -> None:
    data = write_data(folder)
    shutil.copy(data / "panoptic_val.json", data / "found.json")
    shutil.copytree(data / "panoptic_val", data / "found")


def _copy_model(folder: Path, format: str) -> None:
    shutil.copytree(folder.parent / "models" / format, folder, dirs_exist_ok=True)
    _make_image(folder, "image.png")


@cache
def _whole_model(path: Path) -> Predictor:
    return load(path, device="cpu")


def _segment(folder: Path, images: str, model: str = "") -> None:
    """Segment what a file holds, by a model beside it or by a whole one, which is loaded once."""
    refused: list[str] = []
    try:
        whole = folder.parent / "models" / "panodetr" / "model"
        predictor = load(folder / model, device="cpu") if model else _whole_model(whole)
        refuse: Callable[[Any, PanodetrError], None] = lambda _, e: refused.append(str(e))  # noqa: E731
        found = each_image(find_sources([folder / images]), refuse)
        for result in predictor.segment_each(found, refuse=refuse):
            json.dumps(result.to_dict(), allow_nan=False)
    except PanodetrError as error:
        refused.append(str(error))
    assert not any("\n" in line for line in refused), refused


def _model(format: str, name: str) -> Kind:
    run = partial(_segment, images="image.png", model=name)
    return Kind(make=partial(_copy_model, format=format), damaged=("model*", "model/*"), run=run)


def _image(name: str, make: Callable[[Path], Any] | None = None, **options: Any) -> Kind:
    return Kind(
        make=make or partial(_make_image, name=name, **options),
        damaged=(name,),
        run=partial(_segment, images=name),
    )


def _data(name: str) -> Kind:
    return Kind(make=lambda folder: WRITERS[name][0](folder, MADE), damaged=("**/*",), run=_check)


KINDS: dict[str, Kind] = {
    "panodetr": _model("panodetr", "model"),
    "huggingface": _model("huggingface", "model"),
    "facebook": _model("facebook", "model.pth"),
    "eomt": _model("eomt", "model"),
    "eomt huggingface": _model("eomt huggingface", "model"),
    **{name: _model(name, "model.zip") for name in EXPORTED},
    "png": _image("image.png"),
    "jpeg": _image("image.jpg"),
    "tiff": _image("image.tif", compression="tiff_lzw"),
    "tiff16": _image("image.tif", make=_make_wide),
    "gif": _image("image.gif"),
    "webp": _image("image.webp"),
    "bmp": _image("image.bmp"),
    "ppm": _image("image.ppm"),
    **{
        suffix: _image(f"images.{suffix}", partial(_make_archive, name=f"images.{suffix}"))
        for suffix in ("tar", "zip", "parquet")
    },
    **{f"data {name}": _data(name) for name in WRITERS},
    "data coco": Kind(
        make=write_data, damaged=("data/*", "data/*/*"), run=_command("data", "check", "data")
    ),
    "evaluation": Kind(
        make=_make_predictions,
        damaged=("data/found*", "data/found/*", "data/panoptic_val.json"),
        run=_command(
            *("eval", "--predictions", "data/found.json", "--out", "../report"),
            *("--ground-truth", "data/panoptic_val.json"),
        ),
    ),
}
