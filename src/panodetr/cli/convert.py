"""`panodetr convert`: a checkpoint from one format into another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from panodetr.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "convert",
        help="change a checkpoint's format",
        description="Read a checkpoint of this package, of transformers (version 4 or 5) or of the "
        "original implementation, and write it in one of these formats.",
        epilog="An original file does not say whether its backbone is dilated (DC5), unless it is "
        "a published one under its own name: give --dilation where it is.",
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a bundled name, a folder, a file (.pth, .bin, .safetensors) or an id on the hub",
    )
    parser.add_argument(
        "target",
        type=Path,
        metavar="DST",
        help="the folder to write; for facebook a file that ends in .pth",
    )
    parser.add_argument(
        "--to",
        choices=("panodetr", "huggingface", "facebook"),
        default="panodetr",
        help="the format of DST (default: %(default)s)",
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit, on the hub")
    parser.add_argument(
        "--dilation", action="store_true", default=None, help="SRC is a file of a DC5 model"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Convert, and say what was read and where it is.

    Raises:
        CheckpointError: SRC cannot be read, or the format has no place for it.
        PanodetrError: DST cannot be written.
    """
    from panodetr.checkpoints.load import load_checkpoint
    from panodetr.checkpoints.save import save_pretrained

    spec, model = load_checkpoint(
        options.source, revision=options.revision, dilation=options.dilation
    )
    written = save_pretrained(options.target, spec, model, format=options.to)
    shape = spec.architecture
    parameters = sum(tensor.numel() for tensor in model.state_dict().values())
    print(
        f"{spec.name}: {parameters / 1e6:.1f} M weights, {shape.num_classes} classes, "
        f"{shape.num_queries} queries, masks: {'yes' if shape.masks else 'no'}, "
        f"dilated: {'yes' if shape.backbone.dilate_last else 'no'}"
    )
    print(f"{options.to:12} {written}")
    return 0
