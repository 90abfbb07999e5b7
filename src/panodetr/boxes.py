"""Boxes as tensors: formats, areas and overlaps (paper, section 3.1 and appendix A.2).

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


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of xyxy boxes (..., 4)."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return width * height


def iou_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU (...) and the union's area (...) of xyxy boxes (..., 4) that broadcast."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    width, height = (high - low).clamp(min=0).unbind(-1)
    intersection = width * height
    union = area(a) + area(b) - intersection
    return intersection / union, union


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (...), -1 to 1, of xyxy boxes (..., 4) that broadcast.

    From Rezatofighi et al., 2019. `generalized_iou(a[:, None], b[None])` is that of all pairs.
    A box without area compared with itself gives NaN, as in the original: data is checked before it
    comes here.
    """
    iou, union = iou_and_union(a, b)
    low = torch.minimum(a[..., :2], b[..., :2])
    high = torch.maximum(a[..., 2:], b[..., 2:])
    width, height = (high - low).unbind(-1)
    hull = width * height
    return iou - (hull - union) / hull
