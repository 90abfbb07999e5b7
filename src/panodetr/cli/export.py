"""`panodetr export`: a model as one file for another runtime."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal

from panodetr.cli.output import print_json, print_line
from panodetr.errors import UsageError


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
    print_line(f"try it: panodetr segment IMAGE --model {out}")
    return 0
