"""What every runtime offers, in NumPy, so that whoever calls it needs none of them.

Letters: B images, H and W their padded size, Q queries, C classes, N masks, h and w a mask's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RuntimeName = Literal["torch", "openvino", "onnx"]
"""What can run a model."""

RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)

Precision = Literal["float32", "bfloat16"]
"""What PyTorch computes in."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class Found(Protocol):
    """What a model found in a batch; masks are computed when they are asked for."""

    @property
    def logits(self) -> NDArray[np.float32]:
        """(B, Q, C + 1), the last being "no object"."""
        ...

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(B, Q, 4), cxcywh in fractions of the unpadded image."""
        ...

    def masks(self, image: NDArray[np.intp], query: NDArray[np.intp]) -> NDArray[np.float32]:
        """Mask logits (N, h, w) of the queries (N,) of the images (N,), N from 0."""
        ...


class Runtime(Protocol):
    """A model that can be run."""

    def detect(self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None) -> Found:
        """Run on images (B, H, W, 3) in RGB, resized; padding (B, H, W) is True beside them."""
        ...
