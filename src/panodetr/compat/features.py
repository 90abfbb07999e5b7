"""What a processor gives to a model: arrays by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from panodetr.errors import UsageError

TensorKind = Literal["pt", "np"]


class BatchFeature(dict[str, Any]):
    """A dictionary whose values are attributes, too: `model(**inputs)`, `inputs.pixel_values`."""

    def __getattr__(self, name: str) -> Any:
        """Give a value.

        Raises:
            AttributeError: there is none of this name.
        """
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, where: str | torch.device | torch.dtype) -> BatchFeature:
        """Move the tensors to a device, or turn those of floats into another type, in place."""
        for name, value in self.items():
            self[name] = _moved(value, where)
        return self


def as_features(values: Mapping[str, Any], kind: TensorKind | None) -> BatchFeature:
    """Turn arrays, and lists of arrays of one shape, into tensors or stacked arrays.

    Args:
        values: arrays, lists of arrays, or tuples of numbers.
        kind: "pt" for tensors, "np" for arrays, None to leave all as it is.

    Raises:
        UsageError: there is no such kind, or the arrays of a list differ in shape.
    """
    if kind not in ("pt", "np", None):
        raise UsageError(f"return_tensors is {kind!r}; expected 'pt', 'np' or None")
    if kind is None:
        return BatchFeature(values)
    arrays = {name: _stacked(name, value) for name, value in values.items()}
    if kind == "np":
        return BatchFeature(arrays)
    return BatchFeature({name: torch.from_numpy(value) for name, value in arrays.items()})


def _stacked(name: str, value: NDArray[Any] | Sequence[Any]) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    shapes = {np.shape(part) for part in value}
    if len(shapes) > 1:
        raise UsageError(
            f"{name} has arrays of the shapes {sorted(shapes)}; pass do_pad=True to make them one "
            "batch, or return_tensors=None to get them one by one"
        )
    return np.array(value)


def _moved(value: Any, where: str | torch.device | torch.dtype) -> Any:
    if isinstance(value, list):
        return [_moved(part, where) for part in value]
    if isinstance(value, BatchFeature):
        return value.to(where)
    if not isinstance(value, torch.Tensor):
        return value
    if isinstance(where, torch.dtype) and not value.is_floating_point():
        return value
    return value.to(where)
