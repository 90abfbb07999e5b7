"""What the models give out, under transformers' names.

B: images, Q: queries, C: classes, D: channels, A: attention heads, T: tokens of the feature map, L:
layers, h, w: a mask's size.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

_VALUES = (
    "loss",
    "loss_dict",
    "logits",
    "pred_boxes",
    "pred_masks",
    "auxiliary_outputs",
    "last_hidden_state",
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "encoder_last_hidden_state",
    "encoder_hidden_states",
    "encoder_attentions",
)
"""In the order of transformers, which code that reads them by their place relies on."""


@dataclass(eq=False)
class DetrObjectDetectionOutput(Mapping[str, Any]):
    """Classes and boxes of a batch: by attribute, by name, or by place among those not None.

    It can be made anew of a mapping, as libraries do that go through a model's outputs.

    Attributes:
        loss: what is minimised, where labels were given.
        loss_dict: its parts, without their weights, and `cardinality_error`.
        logits: (B, Q, C + 1), the last being "no object".
        pred_boxes: (B, Q, 4), cxcywh in fractions of the unpadded image.
        auxiliary_outputs: `logits` and `pred_boxes` of every decoder layer but the last, where the
            configuration has an `auxiliary_loss` and labels were given.
        last_hidden_state: (B, Q, D), the decoder's output.
        decoder_hidden_states: L + 1 of (B, Q, D), the input first, if asked for.
        decoder_attentions: L of (B, A, Q, Q), if asked for.
        cross_attentions: L of (B, A, Q, T), if asked for.
        encoder_last_hidden_state: (B, T, D), the encoder's output.
        encoder_hidden_states: L + 1 of (B, T, D), the input first, if asked for.
        encoder_attentions: L of (B, A, T, T), if asked for.
        image_sizes: height and width of each image in the upper left corner of its canvas, where
            the batch was padded. Not one of the values.
        mask_stride: pixels of the canvas for one of a mask, in both directions. Not one of the
            values.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor = field(default=None)  # pyright: ignore[reportAssignmentType]: always there
    pred_boxes: Tensor = field(default=None)  # pyright: ignore[reportAssignmentType]: always there
    auxiliary_outputs: list[dict[str, Tensor]] | None = None
    last_hidden_state: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    image_sizes: Sequence[tuple[int, int]] | None = None
    mask_stride: int = 4

    def __post_init__(self) -> None:
        """Take the values of a mapping."""
        if isinstance(self.loss, Mapping):
            given, self.loss = self.loss, None
            vars(self).update(given)

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the values that there are, in order, and then of any added."""
        known = type(self).__dataclass_fields__
        added = [name for name in vars(self) if name not in known and not name.startswith("__")]
        return (name for name in (*_VALUES, *added) if vars(self).get(name) is not None)

    def items(self) -> ItemsView[str, Any]:
        """Give names and values; in place of masks that were not computed yet, what computes them.

        A library that goes through a model's outputs and makes them anew does not compute them.
        """
        kept = {name: vars(self)[name] for name in self}
        later = vars(self).get("compute_masks")
        return (kept | ({} if later is None else {"compute_masks": later})).items()

    def __len__(self) -> int:
        """Count the values."""
        return len(list(iter(self)))

    def __contains__(self, key: object) -> bool:
        """Whether there is a value of this name."""
        return key in list(iter(self))

    def __getitem__(self, key: str | int | slice) -> Any:
        """Give a value by its name or its place, or several by a slice.

        Raises:
            KeyError: there is none of this name.
        """
        if not isinstance(key, str):
            return self.to_tuple()[key]
        value = getattr(self, key, None) if key in _VALUES or key in self else None
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a value by its name."""
        setattr(self, key, value)

    def to_tuple(self) -> tuple[Any, ...]:
        """Give the values that there are, in order."""
        return tuple(getattr(self, name) for name in self)


@dataclass(eq=False)
class DetrModelOutput(DetrObjectDetectionOutput):
    """States of a batch alone: `logits` and `pred_boxes` are not among the values."""


@dataclass(eq=False)
class DetrSegmentationOutput(DetrObjectDetectionOutput):
    """Classes, boxes and masks of a batch.

    Attributes:
        pred_masks: (B, Q, h, w) logits over the whole canvas. In a training step, where the loss
            needs the masks of matched queries only, they are computed when they are first read, and
            are one of the values from then on.
        compute_masks: computes them; None where they are there. Not one of the values.
    """

    pred_masks: Tensor = field(default_factory=lambda: None)  # pyright: ignore[reportAssignmentType]
    compute_masks: Callable[[], Tensor] | None = None

    def __post_init__(self) -> None:
        """Take the values of a mapping, and leave masks out that are not computed yet."""
        super().__post_init__()
        if self.compute_masks is not None:
            del self.pred_masks
            # DistributedDataParallel reads every field of a dataclass that it is given.
            own = type(self).__dataclass_fields__
            vars(self)["__dataclass_fields__"] = {k: v for k, v in own.items() if k != "pred_masks"}

    def __getattr__(self, name: str) -> Any:
        """Compute the masks when they are first read.

        Raises:
            AttributeError: there is none of this name.
        """
        if name != "pred_masks" or (compute := vars(self).get("compute_masks")) is None:
            raise AttributeError(f"the output has no {name!r}")
        self.pred_masks, self.compute_masks = compute(), None
        return self.pred_masks
