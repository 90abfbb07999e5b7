"""`panodetr models`, `convert` and `export`: which models there are, and in other formats."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal

from panodetr.cli.output import print_json, print_line, print_table
from panodetr.errors import UsageError

FIGURES = {"pq": "PQ", "pq_things": "things", "ap": "box AP", "segm_ap": "mask AP"}
"""Those that are listed, and what they are called."""


def models(*, json: bool = False) -> int:
    """List the models that can be named.

    These come with the package, are in the cache of the Hugging Face hub, or are published. Any
    DETR on the hub can be given by its id, too.

    Args:
        json: Print one JSON document.

    Raises:
        CheckpointError: a bundled model is broken.
    """
    from panodetr.checkpoints.hub import list_models

    listed = list_models()
    if json:
        print_json(listed, indent=2)
        return 0
    from rich.table import Table

    table = Table("model", "where", "task", box=None, pad_edge=False)
    table.add_column("size", justify="right")
    for heading in ("licence", "measured on", "figures in percent"):
        table.add_column(heading)
    for model in listed:
        table.add_row(
            model.name,
            model.where,
            model.task,
            f"{model.size / 1e6:.1f} MB",
            model.licence or "unknown",
            model.data or "unknown",
            ", ".join(
                f"{n} {model.figures[k]:.1f}" for k, n in FIGURES.items() if k in model.figures
            ),
        )
    print_table(table)
    return 0


def convert(
    source: str,
    target: Path,
    /,
    *,
    to: Literal["panodetr", "huggingface", "facebook"] = "panodetr",
    revision: str | None = None,
    dilation: bool = False,
    names: Path | None = None,
    json: bool = False,
) -> int:
    """Change a checkpoint's format.

    Reads a checkpoint of this package, of transformers (version 4 or 5) or of the original
    implementation, and writes it in one of these formats. An original file does not say whether its
    backbone is dilated (DC5), unless it is a published one under its own name: give --dilation.

    Args:
        source: A bundled name, a folder, a file (.pth, .bin, .safetensors) or an id on the hub.
        target: The folder to write; for facebook a file that ends in .pth.
        to: The format to write.
        revision: Branch, tag or commit, on the hub.
        dilation: The source is a file of a DC5 model.
        names: A text file of the classes' names, one a line, by index; N/A is no class.
        json: Print what was written as one JSON document.

    Raises:
        CheckpointError: the source cannot be read, or the format has no place for it.
        PanodetrError: the target cannot be written.
    """
    from panodetr.checkpoints.load import load_checkpoint
    from panodetr.checkpoints.save import save_pretrained
    from panodetr.data.tree import as_lines, read_file
    from panodetr.files import check_writable
    from panodetr.model.config import DetrConfig

    check_writable(target.parent, folder=True)
    listed = None if names is None else as_lines(read_file(names), names)
    spec, model = load_checkpoint(
        source, revision=revision, dilation=dilation or None, names=listed
    )
    written = save_pretrained(target, spec, model, format=to)
    shape = spec.architecture
    if json:
        print_json({"model": spec.name, "format": to, "written": str(written)})
        return 0
    dilated = isinstance(shape, DetrConfig) and shape.backbone.dilate_last
    parameters = sum(tensor.numel() for tensor in model.state_dict().values())
    print_line(
        f"{spec.name}: {parameters / 1e6:.1f} M weights, {shape.num_classes} classes, "
        f"{shape.num_queries} queries, masks: {'yes' if shape.masks else 'no'}, "
        f"dilated: {'yes' if dilated else 'no'}"
    )
    print_line(f"{to:12} {written}")
    return 0


def export(
    model: str,
    /,
    *,
    format: Literal["onnx", "openvino"],
    out: Path,
    int8: bool = False,
    calibration: Path | None = None,
    json: bool = False,
) -> int:
    """Write a model as one file for ONNX Runtime or OpenVINO.

    The file needs no PyTorch: it holds normalising, the network, and the masks of kept queries. It
    is run and compared with the model before it is kept. Use it as any model: panodetr segment
    IMAGE --model FILE.

    Args:
        model: A bundled name, a folder, a file (.pth, .bin, .safetensors) or an id on the hub.
        format: The runtime that the file is for.
        out: The file to write.
        int8: Quantise, for OpenVINO; needs --calibration.
        calibration: A folder of images like those that the model will see, to measure activations
            on; 50 are enough.
        json: Print what was written as one JSON document.

    Raises:
        UsageError: --int8 and --calibration do not come together.
        PanodetrError: the model cannot be loaded, differs once exported, or cannot be written.
    """
    if int8 != (calibration is not None):
        raise UsageError("--int8 and --calibration FOLDER belong together; give both or neither")
    from panodetr.export.export import export as write

    with redirect_stdout(sys.stderr):  # NNCF's progress bars; stdout is for what was made
        info = write(model, out, format=format, calibration=calibration)
    if json:
        print_json({
            "file": str(out), "model": info.spec.name, "format": info.format,
            "precision": info.precision, "bytes": out.stat().st_size, "checked": info.checked,
        })  # fmt: skip
        return 0
    size = out.stat().st_size / 1e6
    print_line(f"{out}: {info.spec.name} for {info.format}, {info.precision}, {size:.1f} MB")
    if info.precision == "int8":
        agreed = info.checked
        print_line(
            f"of {agreed['queries']} segments in the images {agreed['same_class']:.1%} keep their "
            f"class; boxes overlap by {agreed['box_iou']:.1%}, masks by {agreed['mask_iou']:.1%}"
        )
    else:
        worst = ", ".join(f"{name} {value:.1e}" for name, value in info.checked.items())
        print_line(f"largest differences from the model: {worst}")
    command = "segment" if info.spec.architecture.masks else "detect"
    print_line(f"try it: panodetr {command} IMAGE --model {out}")
    return 0
