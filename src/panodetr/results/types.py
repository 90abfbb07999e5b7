"""What the model found in a photo, in the photo's own pixels. NumPy only: no torch in here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from panodetr.results.coco import ResultInfo
    from panodetr.results.save import SavedFiles


@dataclass(frozen=True, kw_only=True)
class Category:
    """One class of a model.

    Attributes:
        index: position in the model's class logits, 0 to num_classes - 1.
        id: the data set's own id, given back in every result.
        name: the data set's own name.
        is_thing: True for countable objects, False for stuff (merged into one segment an image).
        color: red, green, blue, 0 to 255.
    """

    index: int
    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment of a panoptic result.

    Attributes:
        id: its value in `PanopticResult.segment_ids`, 1 or more.
        label: the category's name.
        category_id: the category's id in the data set.
        is_thing: whether the category is a thing.
        score: probability of the class, 0 to 1.
        box: x0, y0, x1, y1 in pixels of the photo, tight around the segment's pixels (x1, y1
            exclusive).
        area: pixels.
    """

    id: int
    label: str
    category_id: int
    is_thing: bool
    score: float
    box: tuple[float, float, float, float]
    area: int


@dataclass(frozen=True, kw_only=True, eq=False)
class PanopticResult:
    """The segments of one photo.

    Attributes:
        segments: in the order of their ids.
        segment_ids: (H, W) int32 at the photo's own size; 0 = nothing.
        photo: (H, W, 3) uint8 RGB, what the result was made from, upright.
        source: the photo's path where it came from a file, else None.
        categories: the model's categories, for names and colours.
    """

    segments: tuple[Segment, ...]
    segment_ids: NDArray[np.int32]
    photo: NDArray[np.uint8]
    source: Path | None
    categories: tuple[Category, ...]

    # Imported on use: writing and drawing need Pillow, and whoever reads the segments does not.
    def save(self, folder: str | Path) -> SavedFiles:
        """Write overlay picture, COCO id map and JSON; see `panodetr.results.save.save_result`.

        Raises:
            PanodetrError: the system refused to write.
        """
        from panodetr.results.save import save_result

        return save_result(self, folder)

    def to_dict(self) -> ResultInfo:
        """Describe the segments as COCO's `segments_info` does, ready for JSON."""
        from panodetr.results.coco import result_info

        return result_info(self)
