"""What the models give out, under transformers' names.

B: images, Q: queries, C: classes, D: channels, h, w: a mask's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_VALUES = (
    "logits",
    "pred_boxes",
    "pred_masks",
    "auxiliary_outputs",
    "last_hidden_state",
    "encoder_last_hidden_state",
)
"""In the order of transformers, which code that reads them by their place relies on."""


@dataclass(kw_only=True, eq=False)
class DetrObjectDetectionOutput(Mapping[str, Any]):
    """Classes and boxes of a batch: by attribute, by name, or by place among those not None.

    Attributes:
        logits: (B, Q, C + 1), the last being "no object".
        pred_boxes: (B, Q, 4), cxcywh in fractions of the unpadded image.
        auxiliary_outputs: `logits` and `pred_boxes` of every decoder layer but the last, where they
            were asked for.
        last_hidden_state: (B, Q, D), the decoder's output.
        encoder_last_hidden_state: (B, h' w', D), the encoder's output.
        image_sizes: height and width of each image in the upper left corner of its canvas, where
            the batch was padded. Not one of the values.
    """

    logits: Tensor
    pred_boxes: Tensor
    auxiliary_outputs: list[dict[str, Tensor]] | None = None
    last_hidden_state: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    image_sizes: Sequence[tuple[int, int]] | None = None

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the values that there are, in order."""
        return (name for name in _VALUES if getattr(self, name, None) is not None)

    def __len__(self) -> int:
        """Count the values."""
        return len(self.to_tuple())

    def __getitem__(self, key: str | int | slice) -> Any:
        """Give a value by its name or its place, or several by a slice.

        Raises:
            KeyError: there is none of this name.
        """
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in tuple(self):
            raise KeyError(key)
        return getattr(self, key)

    def to_tuple(self) -> tuple[Any, ...]:
        """Give the values that there are, in order."""
        return tuple(getattr(self, name) for name in self)


@dataclass(kw_only=True, eq=False)
class DetrSegmentationOutput(DetrObjectDetectionOutput):
    """Classes, boxes and masks of a batch.

    Attributes:
        pred_masks: (B, Q, h, w) logits over the whole canvas.
    """

    pred_masks: Tensor
