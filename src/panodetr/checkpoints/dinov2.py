"""A trained vision transformer for patches of another size, and for more or fewer of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from panodetr.checkpoints.names import DINOV2, NameTable, State, StoredShapes
from panodetr.model.config import VitConfig

_PATCHES, _POSITIONS = "backbone.patches.weight", "backbone.positions"
_CLASS = "backbone.class_token"


def stored_shape(stored: Mapping[str, Tensor], table: NameTable, config: VitConfig) -> VitConfig:
    """The configuration with the patches and the grid of stored weights, as the table names them.

    Raises:
        ValueError: a weight is missing, or of another form.
    """
    shapes = StoredShapes(stored, table)
    count = shapes.size(_POSITIONS, 2)[0] - _more_positions(table)
    return replace(config, patch=shapes.size(_PATCHES, 4)[-1], grid=isqrt(count))


def expected_weights(vit: Mapping[str, Tensor], table: NameTable) -> State:
    """The weights of a transformer as a file has them, under our names with "backbone.".

    DINOv2 has a position for the class token, too, in front of the others.
    """
    expected = {f"backbone.{key}": tensor for key, tensor in vit.items()}
    rows, dim = expected[_POSITIONS].shape
    expected[_POSITIONS] = expected[_POSITIONS].new_empty(rows + _more_positions(table), dim)
    return expected


def fit(state: State, table: NameTable, config: VitConfig) -> State:
    """Make weights, named as `expected_weights` does, those of a transformer of this shape."""
    positions = state[_POSITIONS]
    if _more_positions(table):
        state[_CLASS] = state[_CLASS] + positions[0]
        positions = positions[1:]
    state[_POSITIONS] = resample_positions(positions, config.grid)
    state[_PATCHES] = resample_kernel(state[_PATCHES], config.patch)
    return {key.removeprefix("backbone."): tensor for key, tensor in state.items()}


def _more_positions(table: NameTable) -> int:
    return 1 if table is DINOV2 else 0


def resample_positions(positions: Tensor, grid: int) -> Tensor:
    """Positions (g * g, D) for a grid of another side: (grid * grid, D), bicubic, antialiased."""
    side = isqrt(len(positions))
    if side == grid:
        return positions
    old = positions.unflatten(0, (side, side)).permute(2, 0, 1)[None]
    new = F.interpolate(old, (grid, grid), mode="bicubic", antialias=True)
    return new[0].permute(1, 2, 0).flatten(0, 1).contiguous()


def resample_kernel(kernel: Tensor, patch: int) -> Tensor:
    """A patch embedding's kernel (D, 3, p, p) for patches of another size (D, 3, patch, patch).

    A patch that is resized gives the new kernel the value that the old one gave of it, as near as
    can be: FlexiViT's pseudo-inverse of resizing (Beyer et al., 2023).
    """
    old = kernel.shape[-1]
    if old == patch:
        return kernel
    unit = torch.eye(old * old, dtype=torch.float64).view(-1, 1, old, old)
    resizing = F.interpolate(unit, (patch, patch), mode="bicubic", antialias=True)  # pp, 1, P, P
    inverse = torch.linalg.pinv(resizing.flatten(1))  # PP, pp
    resized = kernel.double().flatten(2) @ inverse.T  # D, 3, PP
    return resized.unflatten(-1, (patch, patch)).to(kernel.dtype)
