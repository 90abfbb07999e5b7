"""The errors a user can cause, each one line: what came, what was expected, what to do."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterable


class PanodetrError(ValueError):
    """Base of every error that a user can fix; the command line prints its one line alone."""


class UsageError(PanodetrError):
    """A command was given invalid arguments: exit code 2."""


class ImageError(PanodetrError):
    """A file or object could not be read as an image."""


class ChannelError(ImageError):
    """An image has channels of which nothing says what they show; they must be chosen."""


class ImageWarning(UserWarning):
    """An image was read in a way that its owner may not have meant."""


class ImageTypeError(ImageError, TypeError):
    """An object is of a type that cannot stand for an image."""


class CheckpointError(PanodetrError):
    """A checkpoint is missing, broken, or does not fit its configuration."""


class CheckpointWarning(UserWarning):
    """A checkpoint does not say something that was guessed."""


class DataError(PanodetrError):
    """A data set contradicts itself or the format it should have."""


class TrainingError(PanodetrError):
    """Training cannot continue; the message says what was tried and what to change."""


class Interrupted(PanodetrError):
    """A run was asked to stop by a signal, and has kept its state."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class MissingExtra(PanodetrError):
    """A part of the package needs libraries that were not installed with it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs libraries that are not installed; pip install 'panodetr[{extra}]'"
        )


_EXTRAS = {
    "av": ("reading or writing a video", "video"),
    "nncf": ("quantising to int8", "openvino"),
    "onnxruntime": ("running a model in ONNX Runtime", "onnx"),
    "onnxscript": ("writing a model for ONNX Runtime", "onnx"),
    "openvino": ("running a model in OpenVINO", "openvino"),
    "pandas": ("a table in pandas", "formats"),
    "pyarrow": ("reading or writing Parquet and Arrow", "tables"),
    "ray": ("--engine ray", "ray"),
    "roifile": ("writing ImageJ's ROIs", "formats"),
    "zarr": ("reading an image by regions", "large"),
}
"""What needs a library that not everybody installs, and the extra of this package that has it."""


def import_extra(name: str) -> Any:
    """Import a module of one of the libraries in `_EXTRAS`.

    Raises:
        MissingExtra: it is not installed.
    """
    # OpenVINO and NNCF report their use to their maker through this library, where they find it.
    sys.modules.setdefault("openvino_telemetry", cast("Any", None))
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(*_EXTRAS[name.partition(".")[0]]) from error


def reason_of(error: object) -> str:
    """Give in one line what an error says: the system's own words, without the path, if it has."""
    words = error.strerror if isinstance(error, OSError) else None
    return " ".join((words or str(error) or type(error).__name__).split())


def did_you_mean(given: str, known: Iterable[str], otherwise: str) -> str:
    """Ask whether the most similar known name was meant; give `otherwise` where none is."""
    from difflib import get_close_matches

    near = get_close_matches(given, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def preview(names: Iterable[str], most: int = 3) -> str:
    """List the first few names, for a message."""
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest
