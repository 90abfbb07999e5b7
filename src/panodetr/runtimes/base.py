"""What every runtime offers, in NumPy, so that whoever calls it needs none of them.

Letters: B photos, H and W their padded size, Q queries, C classes, N masks, h and w a mask's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Found(Protocol):
    """What a model found in a batch; masks are computed when they are asked for."""

    @property
    def logits(self) -> NDArray[np.float32]:
        """(B, Q, C + 1), the last being "no object"."""
        ...

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(B, Q, 4), cxcywh in fractions of the unpadded photo."""
        ...

    def masks(self, image: NDArray[np.intp], query: NDArray[np.intp]) -> NDArray[np.float32]:
        """Mask logits (N, h, w) of the queries (N,) of the photos (N,)."""
        ...


class Runtime(Protocol):
    """A model that can be run."""

    def detect(self, pixels: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> Found:
        """Run on normalised pixels (B, 3, H, W); padding (B, H, W) is True beside the photos."""
        ...
