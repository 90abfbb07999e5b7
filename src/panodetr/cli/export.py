"""`panodetr export`: a model as one file for another runtime."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from panodetr.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "export",
        help="write a model for ONNX Runtime or OpenVINO",
        description="Write a model as one file that needs no PyTorch: normalising, network, and "
        "masks of the queries that are kept. It is run and compared with the model before it is "
        "kept.",
        epilog="The file is used as any model: panodetr segment IMAGE --model F.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a bundled name, a folder, a file (.pth, .bin, .safetensors) or an id on the hub",
    )
    parser.add_argument("--format", choices=("onnx", "openvino"), required=True, help="for what")
    parser.add_argument("--out", type=Path, required=True, metavar="F", help="the file to write")
    parser.add_argument(
        "--int8", action="store_true", help="quantise, for OpenVINO; needs --calibration"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FOLDER",
        help="images like those that the model will see, to measure activations on; 50 will do",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export, and say how close the file is to the model.

    Raises:
        UsageError: --int8 and --calibration do not come together.
        PanodetrError: the model cannot be loaded, differs once exported, or cannot be written.
    """
    if options.int8 != (options.calibration is not None):
        raise UsageError("--int8 and --calibration FOLDER belong together; give both or neither")
    from panodetr.export.export import export

    with redirect_stdout(sys.stderr):  # NNCF's progress bars; stdout is for what was made
        info = export(
            options.model, options.out, format=options.format, calibration=options.calibration
        )
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {info.spec.name} for {info.format}, {info.precision}, {size:.1f} MB")
    if info.precision == "int8":
        agreed = info.checked
        print(
            f"of {agreed['queries']} segments in the images {agreed['same_class']:.1%} keep their "
            f"class; boxes overlap by {agreed['box_iou']:.1%}, masks by {agreed['mask_iou']:.1%}"
        )
    else:
        worst = ", ".join(f"{name} {value:.1e}" for name, value in info.checked.items())
        print(f"largest differences from the model: {worst}")
    print(f"try it: panodetr segment IMAGE --model {options.out}")
    return 0
