"""What goes into a forward pass of transformers' classes, and what can be seen on its way.

Letters: B images, H, W the batch's size, A attention heads, D channels, N queries, M keys.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.errors import UsageError
from panodetr.model.detr import Detr
from panodetr.model.transformer import Attention


def read_batch(
    pixels: Tensor | Sequence[Tensor], mask: Tensor | None, channels: int
) -> tuple[Tensor, Tensor | None]:
    """Give pixels (B, channels, H, W), and padding (B, H, W), None where there is none."""
    if not isinstance(pixels, Tensor):
        images = list(pixels) if isinstance(pixels, Sequence) else []  # pyright: ignore[reportUnnecessaryIsInstance]: a caller's
        shapes = [tuple(image.shape) for image in images if isinstance(image, Tensor)]  # pyright: ignore[reportUnnecessaryIsInstance]: a caller's
        if mask is not None or not shapes or any(len(shape) != 3 for shape in shapes):
            raise UsageError(
                f"pixel_values is a {type(pixels).__name__} of the shapes {shapes}, pixel_mask is "
                f"{'given' if mask is not None else 'None'}; expected images ({channels}, H, W) "
                "and no mask"
            )
        height, width = (max(shape[axis] for shape in shapes) for axis in (1, 2))
        sides = [(0, width - w, 0, height - h) for _, h, w in shapes]
        mask = torch.stack(
            [F.pad(i.new_ones(i.shape[1:]), s) for i, s in zip(pixels, sides, strict=True)]
        )
        pixels = torch.stack([F.pad(i, s) for i, s in zip(pixels, sides, strict=True)])
    if (
        pixels.ndim != 4
        or pixels.shape[1] != channels
        or (mask is not None and mask.shape != pixels[:, 0].shape)
    ):
        raise UsageError(
            f"pixel_values has the shape {tuple(pixels.shape)}"
            + ("" if mask is None else f" and pixel_mask {tuple(mask.shape)}")
            + f"; expected (B, {channels}, H, W) and (B, H, W)"
        )
    return pixels, None if mask is None or bool(mask.all()) else mask == 0


def image_sizes(padding: Tensor) -> list[tuple[int, int]]:
    """Read from the padding (B, H, W) how large the images in their corners are."""
    rows, columns = ((~padding).any(dim=axis).sum(dim=1).tolist() for axis in (2, 1))
    return list(zip(rows, columns, strict=True))


@dataclass(kw_only=True, eq=False)
class Seen:
    """What a forward pass saw on its way, where it was asked for."""

    encoder_hidden_states: list[Tensor] = field(default_factory=list[Tensor])
    decoder_hidden_states: list[Tensor] = field(default_factory=list[Tensor])
    encoder_attentions: list[Tensor] = field(default_factory=list[Tensor])
    decoder_attentions: list[Tensor] = field(default_factory=list[Tensor])
    cross_attentions: list[Tensor] = field(default_factory=list[Tensor])


@contextmanager
def record(network: Detr, *, hidden_states: bool, attentions: bool) -> Generator[Seen, None, None]:
    """Record what layers read and give out, and attention weights, where it is asked for."""
    seen = Seen()
    with ExitStack() as hooks:

        def keep(
            found: list[Tensor], _: nn.Module, args: tuple[Tensor, ...], output: Tensor
        ) -> None:
            found += [x.flatten(1, -2) for x in (*(() if found else args[:1]), output)]

        def attend(
            found: list[Tensor], module: nn.Module, args: tuple[Any, ...], _: Tensor
        ) -> Tensor:
            assert isinstance(module, Attention)
            output, weights = _attend(module, *args)
            found.append(weights)
            return output

        lists = {
            "encoder.layers": seen.encoder_hidden_states,
            "decoder.layers": seen.decoder_hidden_states,
            "attention": seen.encoder_attentions,
            "self_attention": seen.decoder_attentions,
            "cross_attention": seen.cross_attentions,
        }
        for name, part in network.named_modules():
            place, _, last = name.rpartition(".")
            if hidden_states and place in lists:
                hooks.callback(part.register_forward_hook(partial(keep, lists[place])).remove)
            if attentions and isinstance(part, Attention):
                hooks.callback(part.register_forward_hook(partial(attend, lists[last])).remove)
        yield seen


def _attend(
    module: Attention, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What `Attention.forward` gives, and the weights (B, A, N, M) that it has on the way."""
    q, k, v = (
        layer(given).unflatten(-1, (module.heads, -1)).transpose(1, 2)  # B, A, N or M, D/A
        for layer, given in ((module.query, query), (module.key, key), (module.value, value))
    )
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5  # B, A, N, M
    if padding is not None:
        scores = scores.masked_fill(padding[:, None, None, :], float("-inf"))
    weights = F.dropout(scores.softmax(-1), module.dropout, module.training)
    return module.out((weights @ v).transpose(1, 2).flatten(2)), weights
