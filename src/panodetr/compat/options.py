"""The options of a processor, by transformers' names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf
from numbers import Integral, Real
from typing import Any, Self, cast

from PIL import Image

from panodetr.errors import UsageError, did_you_mean
from panodetr.images.preprocess import IMAGENET_MEAN, IMAGENET_STD

FORMATS = ("coco_detection", "coco_panoptic")
_SIZE_KEYS = (
    {"shortest_edge", "longest_edge"},
    {"height", "width"},
    {"max_height", "max_width"},
)
_OLD_NAMES = {"pad_and_return_pixel_mask": "do_pad"}
_LIMIT = 1333  # pixels of the long edge, where a size is one number
_WITHOUT_EFFECT: dict[str, Collection[Any]] = {
    "data_format": ("channels_first",),
    "do_convert_rgb": (True, False),
    "do_center_crop": (False,),
    "use_fast": (True, False),
    "backend": ("pil", "torchvision"),
    "disable_grouping": (True, False),
    "proxies": ({},),
    "trust_remote_code": (True, False),
}
"""Options of transformers that change nothing here, and the values that can be met."""


@dataclass(kw_only=True, eq=False)
class ProcessorOptions:
    """How images and annotations are prepared.

    Attributes:
        format: of annotations: "coco_detection" or "coco_panoptic".
        do_resize: whether images are resized.
        size: `shortest_edge` and `longest_edge` (0 or None for no limit); or `height` and `width`,
            which may distort; or `max_height` and `max_width`. One number is the shortest edge, a
            pair the height and width.
        resample: Pillow's filter, or its name.
        do_rescale: whether values are multiplied by `rescale_factor`.
        rescale_factor: brings 0 to 255 to 0 to 1.
        do_normalize: whether the mean is subtracted and the result divided by the deviation.
        image_mean: of red, green, blue, after rescaling; one number stands for all channels. A
            fourth number keeps a fourth channel, and one in a list a grey image's only one.
        image_std: likewise.
        do_convert_annotations: whether boxes become cxcywh in fractions; None, in the constructor,
            takes `do_normalize`.
        do_pad: whether images of several sizes become one batch, with a `pixel_mask`.
        pad_size: `height` and `width` of the batch, one number for both; None takes the greatest of
            the images.
    """

    format: str = FORMATS[0]
    do_resize: bool = True
    size: Mapping[str, int] = field(
        default_factory=lambda: {"shortest_edge": 800, "longest_edge": _LIMIT}
    )
    resample: int = Image.Resampling.BILINEAR
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: float | tuple[float, ...] = IMAGENET_MEAN
    image_std: float | tuple[float, ...] = IMAGENET_STD
    do_convert_annotations: bool | None = None
    do_pad: bool = True
    pad_size: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        """Bring sizes to one form.

        Raises:
            UsageError: a size has other keys, or a mean another number of channels.
        """
        self.format = str(getattr(self.format, "value", self.format))
        filters = {choice.name.lower(): choice for choice in Image.Resampling}
        asked: object = self.resample
        self.resample = filters.get(asked.lower(), -1) if isinstance(asked, str) else self.resample
        if self.resample not in [*filters.values()]:
            raise UsageError(f"resample is {asked!r}; expected one of {', '.join(filters)}")
        self.size = _read_size(self.size)
        if set(self.size) not in _SIZE_KEYS:
            raise UsageError(
                f"size is {self.size}; expected shortest_edge and longest_edge, "
                "height and width, or max_height and max_width"
            )
        if self.pad_size is not None:
            side = self.pad_size
            self.pad_size = _read_size([side] * 2 if isinstance(side, Integral) else side)
            if set(self.pad_size) != {"height", "width"}:
                raise UsageError(f"pad_size is {self.pad_size}; expected height and width")
        for name in ("image_mean", "image_std"):
            if not isinstance(value := getattr(self, name), int | float):
                setattr(self, name, tuple(map(float, value)))
                if len(value) not in (1, 3, 4):
                    raise UsageError(f"{name} has {len(value)} numbers; expected one, 3 or 4")
        if self.do_convert_annotations is None:
            self.do_convert_annotations = self.do_normalize

    def changed(self, values: Mapping[str, Any]) -> Self:
        """Set some options by their names; None leaves an option as it is.

        `size` may be a number, the shortest edge, with `max_size` beside it, 1333 unless given.

        Raises:
            UsageError: there is no such option, or its value is not possible.
        """
        return replace(self, **known_options(values, self.size))

    def target_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Say to which height and width an image is resized, by transformers' rules.

        They differ from the original's (`panodetr.images.preprocess`) where the long edge sets the
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


OPTIONS = tuple(option.name for option in fields(ProcessorOptions))


def known_options(
    values: Mapping[str, Any], size: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Translate options' old names, and leave out those that change nothing here.

    Args:
        values: by transformers' names; None stands for no value.
        size: what `max_size` alone changes.

    Raises:
        UsageError: there is no such option, or only another value of it is possible.
    """
    given = {_OLD_NAMES.get(k, k): v for k, v in values.items() if v is not None}
    longest = given.pop("max_size", None)
    if isinstance(given.get("size"), Integral):
        given["size"] = {"shortest_edge": given["size"], "longest_edge": longest or _LIMIT}
    elif longest is not None and "size" not in given:
        given["size"] = {**(size or {"shortest_edge": 800}), "longest_edge": longest}
    for name in set(given).difference(OPTIONS):
        possible = _WITHOUT_EFFECT.get(name)
        if possible is None:
            hint = did_you_mean(name, OPTIONS, f"expected one of {', '.join(OPTIONS)}")
            raise UsageError(f"there is no option {name!r}; {hint}")
        value = given.pop(name)
        if getattr(value, "value", value) not in possible:
            raise UsageError(f"{name} is {value!r}; only {next(iter(possible))!r} is possible here")
    return given


def _read_size(size: Any) -> dict[str, int]:
    """Read a number, a pair (height, width) or a mapping; values that are None do not count."""
    if isinstance(size, Integral):
        given: dict[str, Any] = {"shortest_edge": int(size), "longest_edge": _LIMIT}
    elif isinstance(size, Mapping):
        given = dict(cast("Mapping[str, Any]", size))
    else:
        pair = cast("list[Any]", size) if isinstance(size, list | tuple) else []
        given = {"height": pair[0], "width": pair[1]} if len(pair) == 2 else {"": 0}
    if given.get("shortest_edge") is not None and given.get("longest_edge", 0) is None:
        given["longest_edge"] = 0  # no limit
    found = {name: value for name, value in given.items() if value is not None}
    if not all(
        isinstance(side, Real) and float(side) >= (name != "longest_edge")
        for name, side in found.items()
    ):
        raise UsageError(
            f"a size is {size!r}; expected a number, a pair or a dictionary, of at least 1 pixel"
        )
    return found
