"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

    # argparse gives this out and has no public name for it.
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, `--threshold` and `--device`: which model, and how it is used."""
    add_model_name(parser)
    parser.add_argument(
        "--threshold",
        type=probability,
        metavar="T",
        help="least score of a segment, 0 to 1 (default: the model's own)",
    )
    add_device(parser)


def add_model_name(parser: argparse.ArgumentParser) -> None:
    """Add `--model`: which one."""
    parser.add_argument(
        "--model",
        default="nuclei",
        metavar="NAME|FOLDER",
        help="a bundled model or a checkpoint's folder (default: %(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`: where to compute."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; auto takes a GPU where there is one (default: %(default)s)",
    )


def probability(text: str) -> float:
    """Read a number from 0 to 1.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value
