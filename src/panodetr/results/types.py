"""What the model found in an image, in the image's own pixels. NumPy only: no torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from panodetr.results.coco import DetectionInfo, ResultInfo
    from panodetr.results.save import SavedDetections, SavedFiles


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
        box: x0, y0, x1, y1 in pixels of the image, tight around the segment's pixels (x1, y1
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
    """The segments of one image.

    Attributes:
        segments: in the order of their ids.
        segment_ids: (H, W) int32 at the image's own size; 0 = nothing.
        image: (H, W, 3) uint8 RGB, what the result was made from, upright.
        source: the image's path where it came from a file, else None.
        categories: the model's categories, for names and colours.
    """

    segments: tuple[Segment, ...]
    segment_ids: NDArray[np.int32]
    image: NDArray[np.uint8]
    source: Path | None
    categories: tuple[Category, ...]

    def category_ids(self) -> NDArray[np.int32]:
        """Give each pixel (H, W) its category's id, -1 where nothing was found."""
        import numpy as np

        of_segment = np.full(max((s.id for s in self.segments), default=0) + 1, -1, np.int32)
        for segment in self.segments:
            of_segment[segment.id] = segment.category_id
        return of_segment.take(self.segment_ids)

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


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseMask:
    """A mask as the model gives it, a fraction of the image's size.

    Attributes:
        logits: (h, w) float32 over one tile of the image, above 0 where the object is.
        processed_size: height and width that the tile had as the model's input.
        tile: y0, x0, y1, x1 of the tile, often the whole image.
        image_size: height and width.
    """

    logits: NDArray[np.float32]
    processed_size: tuple[int, int]
    tile: tuple[int, int, int, int]
    image_size: tuple[int, int]

    def pixels(self) -> NDArray[np.bool_]:
        """Grow the mask to the image's size (H, W); `panodetr.results.masks.grow_mask` says how."""
        import numpy as np

        from panodetr.results.masks import grow_mask

        y0, x0, y1, x1 = self.tile
        whole = np.zeros(self.image_size, np.bool_)
        whole[y0:y1, x0:x1] = grow_mask(self.logits, self.processed_size, (y1 - y0, x1 - x0))
        return whole


@dataclass(frozen=True, kw_only=True, eq=False)
class Detection:
    """One object that was found.

    Attributes:
        label: the category's name.
        category_id: the category's id in the data set.
        score: probability of the class, 0 to 1.
        box: x0, y0, x1, y1 in pixels of the image, as the model drew it: not tight around the
            mask, and it may reach out of the image.
        coarse_mask: what `mask` is made from; None where masks were not asked for.
    """

    label: str
    category_id: int
    score: float
    box: tuple[float, float, float, float]
    coarse_mask: CoarseMask | None = field(default=None, repr=False)

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """The object's pixels, (H, W); None where masks were not asked for.

        Made each time it is asked for: the masks of all objects of a large image would not fit
        into memory. Masks of different objects may overlap.
        """
        return None if self.coarse_mask is None else self.coarse_mask.pixels()


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionResult:
    """The objects of one image.

    Attributes:
        detections: the best score first.
        image: (H, W, 3) uint8 RGB, what the result was made from, upright.
        source: the image's path where it came from a file, else None.
        categories: the model's categories, for names and colours.
    """

    detections: tuple[Detection, ...]
    image: NDArray[np.uint8]
    source: Path | None
    categories: tuple[Category, ...]

    def save(self, folder: str | Path) -> SavedDetections:
        """Write overlay picture and JSON; see `panodetr.results.save.save_detections`.

        Raises:
            PanodetrError: the system refused to write.
        """
        from panodetr.results.save import save_detections

        return save_detections(self, folder)

    def to_dict(self) -> DetectionInfo:
        """Describe the objects as COCO's results do, ready for JSON."""
        from panodetr.results.coco import detection_info

        return detection_info(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Every query's best class and its box, nothing left out: what average precision ranks.

    Of an image in tiles, those of all tiles, less what several tiles have found.

    Attributes:
        scores: (N,) float32, 0 to 1.
        category_ids: (N,) int64, the data set's own.
        boxes: (N, 4) float32, x0, y0, x1, y1 in pixels of the image, unclipped.
        image_size: height and width.
        coarse_masks: N of them, or none where masks were not asked for.
    """

    scores: NDArray[np.float32]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    image_size: tuple[int, int]
    coarse_masks: tuple[CoarseMask, ...] = ()

    def masks(self) -> Iterator[NDArray[np.bool_]]:
        """Grow the masks (H, W) one after the other, so that no two need lie in memory."""
        for mask in self.coarse_masks:
            yield mask.pixels()
