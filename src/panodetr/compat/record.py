"""What goes into a forward pass of transformers' classes, and what can be seen on its way.

Letters: B images, H, W the batch's size, A attention heads, D channels, N queries, M keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.errors import UsageError
from panodetr.model.detr import Detr
from panodetr.model.transformer import Attention

_ATTENTIONS = {
    "attention": "encoder_attentions",
    "self_attention": "decoder_attentions",
    "cross_attention": "cross_attentions",
}
"""Names of outputs, by those of the modules that compute them."""


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


@contextmanager
def record(
    network: Detr, *, hidden_states: bool, attentions: bool
) -> Generator[dict[str, list[Tensor]]]:
    """Record what layers read and give out, and attention weights, by the names of outputs."""
    seen = defaultdict[str, list[Tensor]](list)
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

        for name, part in network.named_modules():
            place, _, last = name.rpartition(".")
            if hidden_states and place in ("encoder.layers", "decoder.layers"):
                found = seen[f"{place.removesuffix('.layers')}_hidden_states"]
                hooks.callback(part.register_forward_hook(partial(keep, found)).remove)
            if attentions and isinstance(part, Attention):
                found = seen[_ATTENTIONS[last]]
                hooks.callback(part.register_forward_hook(partial(attend, found)).remove)
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
