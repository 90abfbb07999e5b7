"""The options of a processor, by transformers' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf
from typing import Any, Literal

from PIL import Image

from panodetr.errors import UsageError, did_you_mean
from panodetr.images.preprocess import IMAGENET_MEAN, IMAGENET_STD

Format = Literal["coco_detection", "coco_panoptic"]

_SIZE_KEYS = (
    {"shortest_edge", "longest_edge"},
    {"height", "width"},
    {"max_height", "max_width"},
)
_OLD_NAMES = {"pad_and_return_pixel_mask": "do_pad"}


@dataclass(frozen=True, kw_only=True)
class ProcessorOptions:
    """How images and annotations are prepared.

    Attributes:
        format: of annotations.
        do_resize: whether images are resized.
        size: `shortest_edge` and `longest_edge` (0 or None for no limit); or `height` and `width`,
            which may distort; or `max_height` and `max_width`.
        resample: Pillow's filter.
        do_rescale: whether values are multiplied by `rescale_factor`.
        rescale_factor: brings 0 to 255 to 0 to 1.
        do_normalize: whether the mean is taken off, and the rest divided by the deviation.
        image_mean: of red, green, blue, after rescaling.
        image_std: likewise.
        do_convert_annotations: whether boxes become cxcywh in fractions; None does as
            `do_normalize`.
        do_pad: whether images of several sizes become one batch, with a `pixel_mask`.
        pad_size: `height` and `width` of the batch; None takes the greatest of the images.
    """

    format: Format = "coco_detection"
    do_resize: bool = True
    size: Mapping[str, int] = field(
        default_factory=lambda: {"shortest_edge": 800, "longest_edge": 1333}
    )
    resample: int = Image.Resampling.BILINEAR
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, ...] = IMAGENET_MEAN
    image_std: tuple[float, ...] = IMAGENET_STD
    do_convert_annotations: bool | None = None
    do_pad: bool = True
    pad_size: Mapping[str, int] | None = None

    @property
    def converts(self) -> bool:
        """Whether boxes become cxcywh in fractions."""
        asked = self.do_convert_annotations
        return self.do_normalize if asked is None else asked

    def changed(self, values: Mapping[str, Any]) -> ProcessorOptions:
        """Set some options by their names; None leaves an option as it is.

        `size` may be a number, the shortest edge, with `max_size` beside it, 1333 unless given.

        Raises:
            UsageError: there is no such option, or a size cannot be meant.
        """
        given = {_OLD_NAMES.get(k, k): v for k, v in values.items() if v is not None}
        if isinstance(given.get("size"), int):
            longest = given.pop("max_size", 1333)
            given["size"] = {"shortest_edge": given["size"], "longest_edge": longest}
        known = [option.name for option in fields(self)]
        for name in given:
            if name not in known:
                hint = did_you_mean(name, known, f"expected one of {known}")
                raise UsageError(f"there is no option {name!r}; {hint}")
        return replace(self, **given)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: a size has other keys, or there is no such format.
        """
        if set(self.size) not in _SIZE_KEYS:
            raise UsageError(
                f"size is {dict(self.size)}; expected shortest_edge and longest_edge, "
                "height and width, or max_height and max_width"
            )
        if self.pad_size is not None and set(self.pad_size) != {"height", "width"}:
            raise UsageError(f"pad_size is {dict(self.pad_size)}; expected height and width")
        if self.format not in ("coco_detection", "coco_panoptic"):
            raise UsageError(
                f"format is {self.format!r}; expected 'coco_detection' or 'coco_panoptic'"
            )

    def target_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Say to which height and width an image is resized, by transformers' rules.

        They differ from the original's (`panodetr.images.resize`) where the long edge sets the
        limit: the short edge is rounded before the long one follows from it in the original, and
        after it here. An image of 640 by 256 becomes 1333 by 533, and 1332 by 533 in the original.
        """
        height, width = size
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        if "max_height" in self.size:
            scale = min(self.size["max_height"] / height, self.size["max_width"] / width)
            return int(height * scale), int(width * scale)
        short, longest = float(self.size["shortest_edge"]), self.size["longest_edge"] or inf
        least, most = float(min(size)), float(max(size))
        if most / least * short > longest:
            short = longest * least / most
        if min(size) == round(short):
            return size
        if width < height:
            return int(short * height / width), round(short)
        return round(short), int(short * width / height)
