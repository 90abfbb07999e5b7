"""A padded batch to feed, and how near outputs must come; weights are `harness.weights`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from panodetr.images.batch import pad


def padded_batch() -> tuple[Tensor, Tensor]:
    """Two images of different sizes, as the golden files' README makes them."""
    random = np.random.RandomState(1)
    images = [random.standard_normal(s).astype("float32") for s in ((3, 160, 192), (3, 128, 224))]
    pixels, padding = pad(images)
    return torch.from_numpy(pixels), torch.from_numpy(padding)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Within the tolerance, or where the largest value is more than 1, within that part of it."""
    atol = tolerance * max(1.0, expected.abs().max().item())  # boxes never are more than 1
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
