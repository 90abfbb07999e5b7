"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from panodetr.errors import UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    from panodetr.predict import Predictor

    # argparse gives this out and has no public name for it.
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]

FORMATS = ("coco-panoptic", "coco-instances", "yolo", "id-maps")
"""Of data sets. `panodetr.data.dataset` has them too, and takes a while to import."""

OVERLAP = 0.25
"""Part of a tile that its neighbours share, unless the user says otherwise."""


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
    add_runtime(parser)


def add_model_name(parser: argparse.ArgumentParser) -> None:
    """Add `--model`: which one."""
    parser.add_argument(
        "--model",
        default="nuclei",
        metavar="MODEL",
        help="a bundled model, a checkpoint's folder or file, an exported file, or an id on the "
        "Hugging Face hub (default: %(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`: where to compute."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; auto takes a GPU where there is one (default: %(default)s)",
    )


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add `--format`: how a data set is written."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="what FOLDER is taken for (default: the first of these that is there)",
    )


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add `--runtime`: what runs the model."""
    parser.add_argument(
        "--runtime",
        choices=("torch", "openvino", "onnx"),
        help="what runs the model; the last two convert a checkpoint first, so `panodetr export` "
        "it once (default: torch, and for an exported file its own)",
    )


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """Add `--tiles` and `--overlap`: how a large image is cut up."""
    parser.add_argument(
        "--tiles",
        type=_pixels,
        metavar="SIZE",
        help="cut images that are larger into squares of SIZE pixels, whose results are joined "
        "(default: the model's own)",
    )
    parser.add_argument(
        "--overlap",
        type=probability,
        metavar="F",
        help=f"least overlap of neighbouring tiles, as a part of SIZE (default: {OVERLAP})",
    )


def tiled(model: Predictor, options: argparse.Namespace) -> Predictor:
    """Give the model that the options of `add_tiles` ask for.

    Raises:
        UsageError: there is an overlap without tiles, or it is that of a whole tile.
    """
    if options.tiles is None:
        if options.overlap is not None:
            raise UsageError("--overlap is for --tiles; give both")
        return model
    from panodetr.predict import Predictor

    overlap = round(options.tiles * (OVERLAP if options.overlap is None else options.overlap))
    if overlap >= options.tiles:
        raise UsageError(
            f"tiles of {options.tiles} pixels that share {overlap} never get on; "
            "give a smaller --overlap"
        )
    rule = replace(model.spec.preprocessing, tile=options.tiles, tile_overlap=overlap)
    return Predictor(replace(model.spec, preprocessing=rule), model.runtime)


def _pixels(text: str) -> int:
    """Read a number of pixels.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels, 1 or more")
    return int(text)


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
