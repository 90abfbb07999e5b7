"""What the models give out, under transformers' names.

B: images, Q: queries, C: classes, D: channels, L: decoder layers, h, w: a mask's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

from torch import Tensor


class LayerOutput(TypedDict):
    """What one decoder layer says: `logits` (B, Q, C + 1) and `pred_boxes` (B, Q, 4)."""

    logits: Tensor
    pred_boxes: Tensor


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """How the images of a padded batch lie in it, each in the upper left corner.

    Attributes:
        size: height and width of the batch.
        images: height and width of each image.
    """

    size: tuple[int, int]
    images: tuple[tuple[int, int], ...]


class _Named:
    """Fields by attribute, by name, or by their place among those that are not None."""

    def keys(self) -> tuple[str, ...]:
        """Name the values that there are, in order."""
        names = (f.name for f in fields(self) if f.metadata.get("listed", True))  # pyright: ignore[reportArgumentType]
        return tuple(name for name in names if getattr(self, name) is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        """Give a value by its name or its place, or several by a slice.

        Raises:
            KeyError: there is none of this name.
        """
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def to_tuple(self) -> tuple[Any, ...]:
        """Give the values that there are, in order."""
        return tuple(getattr(self, name) for name in self.keys())


@dataclass(kw_only=True, eq=False)
class DetrObjectDetectionOutput(_Named):
    """Classes and boxes of a batch.

    Attributes:
        logits: (B, Q, C + 1), the last being "no object".
        pred_boxes: (B, Q, 4), cxcywh in fractions of the unpadded image.
        auxiliary_outputs: of every decoder layer but the last, where they were asked for.
        last_hidden_state: (B, Q, D), the decoder's output.
        encoder_last_hidden_state: (B, h' w', D), the encoder's output.
        canvas: how the images lie in the batch, where it was padded. Not one of the values.
    """

    logits: Tensor
    pred_boxes: Tensor
    auxiliary_outputs: list[LayerOutput] | None = None
    last_hidden_state: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    canvas: Canvas | None = field(default=None, metadata={"listed": False})


@dataclass(kw_only=True, eq=False)
class DetrSegmentationOutput(_Named):
    """Classes, boxes and masks of a batch.

    Attributes:
        logits: (B, Q, C + 1), the last being "no object".
        pred_boxes: (B, Q, 4), cxcywh in fractions of the unpadded image.
        pred_masks: (B, Q, h, w) logits over the whole canvas.
        auxiliary_outputs: of every decoder layer but the last, where they were asked for.
        last_hidden_state: (B, Q, D), the decoder's output.
        encoder_last_hidden_state: (B, h' w', D), the encoder's output.
        canvas: how the images lie in the batch, where it was padded. Not one of the values.
    """

    logits: Tensor
    pred_boxes: Tensor
    pred_masks: Tensor
    auxiliary_outputs: list[LayerOutput] | None = None
    last_hidden_state: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    canvas: Canvas | None = field(default=None, metadata={"listed": False})
