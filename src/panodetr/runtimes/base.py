"""What every runtime offers, in NumPy, so that whoever calls it needs none of them.

Letters: B images, H and W their padded size, Q queries, C classes.
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal, Protocol, get_args, runtime_checkable

from panodetr.errors import UsageError
from panodetr.threads import Streams

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from panodetr.results.masks import Masks

RuntimeName = Literal["torch", "openvino", "onnx", "auto"]
"""What can run a model; auto takes an exported file that lies beside it, or else torch."""

RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)

Precision = Literal["float32", "bfloat16"]
"""What PyTorch computes in."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def check_device(name: str) -> None:
    """Refuse what is no name of a device.

    Raises:
        UsageError: it is none.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", name):
        names = "expected auto, cpu, cuda, cuda:N (the N-th GPU, from 0) or mps"
        raise UsageError(f"device is {name!r}; {names}")


class Prediction(Protocol):
    """What a model says of a batch; masks are computed when they are asked for."""

    @property
    def logits(self) -> NDArray[np.float32]:
        """(B, Q, C + 1), the last being "no object"."""
        ...

    @property
    def boxes(self) -> NDArray[np.float32] | None:
        """(B, Q, 4), cxcywh in fractions of the unpadded image; None where only masks say it."""
        ...

    def masks(self, queries: Sequence[NDArray[np.intp]]) -> list[Masks]:
        """Compute the masks of some queries of each of the B images, and keep them where they are.

        Args:
            queries: indices (N,) of queries for each image; N may be 0, and differs.

        Raises:
            ValueError: the model has no mask head.
        """
        ...


class Runtime(Protocol):
    """A model that can be run."""

    def detect(self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None) -> Prediction:
        """Run on images (B, H, W, 3) in RGB, resized; padding (B, H, W) is True beside them.

        Raises:
            MemoryError: the device's memory does not hold so many.
        """
        ...

    def streams(self, most: int) -> AbstractContextManager[Streams]:
        """Start threads that run side by side, at most as many as `most`.

        One is for a runtime that is quickest when it shares a batch among the cores itself.
        """
        return nullcontext(Streams())


@runtime_checkable
class DeviceRuntime(Runtime, Protocol):
    """A runtime that can resize images on its device, and computes once what tiles share.

    Attributes:
        resizes: whether it should resize.
        cell: pixels of the model's input, each way, that tiles of one region must lie apart to
            share features, or a multiple of it; None where this model's tiles share nothing.
    """

    resizes: bool
    cell: int | None

    def detect(
        self,
        images: NDArray[np.uint8],
        padding: NDArray[np.bool_] | None,
        size: tuple[int, int] | None = None,
    ) -> Prediction:
        """Run as `Runtime.detect`, on images that are resized to a height and width, if given."""
        ...

    def detect_tiles(
        self,
        region: NDArray[np.uint8],
        corners: Sequence[tuple[int, int]],
        size: tuple[int, int],
        whole: tuple[int, int] | None = None,
    ) -> Prediction:
        """Run as `Runtime.detect` on tiles of a region (H, W, 3), each with its surroundings.

        Args:
            region: resized, unless `whole` is given.
            corners: y, x of each tile in the resized region, multiples of `cell`.
            size: height and width of a tile there, multiples of `cell`, too.
            whole: height and width that the region is resized to.

        Raises:
            MemoryError: the device's memory does not hold so many.
        """
        ...
