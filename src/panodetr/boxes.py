"""Boxes as tensors: formats, overlaps and losses (paper, section 3.1 and appendix A.2).

"cxcywh" is centre x, centre y, width, height; "xyxy" is left, top, right, bottom. Functions work in
whatever unit the boxes come in, fractions of the image or pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners of boxes given by centre and size, both (..., 4)."""
    center, size = boxes.split(2, dim=-1)
    return torch.cat((center - size / 2, center + size / 2), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Centre and size of boxes given by corners, both (..., 4)."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (...), -1 to 1, of xyxy boxes (..., 4) that broadcast.

    From Rezatofighi et al., 2019. `generalized_iou(a[:, None], b[None])` is that of all pairs.
    A box without area compared with itself gives NaN, as in the original: data is checked before it
    comes here.
    """
    (a_low, a_high), (b_low, b_high) = a.split(2, dim=-1), b.split(2, dim=-1)
    inner = torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)
    intersection = _area(inner.clamp(min=0))
    union = _area(a_high - a_low) + _area(b_high - b_low) - intersection
    hull = _area(torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low))
    return intersection / union - (hull - union) / hull


def box_l1(boxes: Tensor, target: Tensor) -> Tensor:
    """Sum of the four differences (...) of boxes (..., 4) that broadcast, cxcywh in fractions."""
    return (boxes - target).abs().sum(-1)


def box_giou(boxes: Tensor, target: Tensor) -> Tensor:
    """1 - generalised IoU (...), 0 to 2, of boxes (..., 4) that broadcast, cxcywh."""
    return 1 - generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target))


def _area(size: Tensor) -> Tensor:
    width, height = size.unbind(-1)
    return width * height
