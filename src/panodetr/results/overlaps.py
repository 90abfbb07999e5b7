"""How far boxes, and masks, overlap with their counterparts: two answers held beside each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CENTER, _EXTENT = slice(0, 2), slice(2, 4)


def paired_box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """IoU (N,) of boxes (N, 4) cxcywh, pair by pair; 0 for two without area."""
    both = np.stack([a, b]).astype(np.float64)  # 2, N, 4
    center, extent = both[..., _CENTER], both[..., _EXTENT]  # 2, N, 2
    low = (center - extent / 2).max(axis=0)  # N, 2
    high = (center + extent / 2).min(axis=0)  # N, 2
    common = np.clip(high - low, 0, None).prod(axis=1)
    union = extent.prod(axis=2).sum(axis=0) - common
    return common / np.maximum(union, np.finfo(np.float64).tiny)


def paired_mask_iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """IoU (N,) of masks (N, h, w), pair by pair, logits above 0 inside; two empty ones have 1."""
    mine, other = a > 0, b > 0
    common = (mine & other).sum(axis=(1, 2))
    either = (mine | other).sum(axis=(1, 2))
    return np.where(either > 0, common / np.maximum(either, 1), 1.0)
