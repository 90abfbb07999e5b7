"""How an image becomes the model's input: its size, its tiles, its mean and deviation."""

from __future__ import annotations

from dataclasses import dataclass

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The rule that a model's images follow, kept in its checkpoint.

    Attributes:
        short_side: resize so that the short side has these pixels; None keeps the image's own
            resolution.
        long_side: but never longer than this; None sets no limit.
        enlarge: where images keep their own resolution, they are enlarged so many times all the
            same: small objects are told apart better.
        tile: predict images that are larger than this in square tiles of this side, in the image's
            own pixels; None never tiles.
        tile_overlap: pixels of the image that neighbouring tiles share at least.
        mean: of red, green, blue, for values from 0 to 1.
        std: likewise.
    """

    short_side: int | None = 800
    long_side: int | None = 1333
    enlarge: float = 1.0
    tile: int | None = None
    tile_overlap: int = 0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Refuse rules that no image can follow.

        Raises:
            ValueError: a side, a factor or a standard deviation is not positive, tiles overlap
                wholly, or images are to be enlarged and resized.
        """
        for name in ("short_side", "long_side", "tile"):
            side = getattr(self, name)
            if side is not None and side < 1:
                raise ValueError(
                    f"preprocessing.{name} is {side}; expected a positive number of pixels or null"
                )
        if not self.enlarge > 0 or (self.enlarge != 1 and self.short_side is not None):
            raise ValueError(
                f"preprocessing.enlarge is {self.enlarge} and short_side {self.short_side}; "
                "expected more than 0, and 1 where images are resized to a short side"
            )
        if self.tile is not None and not 0 <= self.tile_overlap < self.tile:
            raise ValueError(
                f"preprocessing.tile_overlap is {self.tile_overlap}; "
                f"expected 0 to {self.tile - 1}, less than a tile"
            )
        if any(s <= 0 for s in self.std):
            raise ValueError(f"preprocessing.std is {self.std}; expected three positive numbers")
