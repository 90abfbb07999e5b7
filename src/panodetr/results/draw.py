"""The overlay of a result: coloured segments or boxes on the image, outlined and labelled.

Labels are in whatever script the class names are, if the system has a font for it.
"""

from __future__ import annotations

import colorsys
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from panodetr.results.id_map import run_starts
from panodetr.results.types import Category, Detection, Segment

COMFORTABLE_SIDE = 768
"""Images far smaller than this are drawn at 2 to 4 times their size, so that labels can be read."""

_THING_OPACITY, _STUFF_OPACITY = 100, 60  # of 255
_GOLDEN_ANGLE = 0.381966  # of a turn: hues of any number of steps stay well apart

_FONT_FOLDERS = (
    *("$XDG_DATA_HOME/fonts", "~/.local/share/fonts", "~/.fonts"),
    *("/usr/local/share/fonts", "/usr/share/fonts"),
    *("~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts"),
    *("$WINDIR/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
)

# How the names of font files begin that are tried first, and parts of those that are tried last.
_FIRST_FONTS = ("dejavusans", "notosans-regular", "arial", "segoeui", "notosanscjk-regular", "msyh")
_LAST_FONTS = ("bold", "italic", "oblique", "black", "light", "thin", "mono", "serif", "condens")

_NO_FONTS = ("lastresort", "adobeblank", "emoji")
"""Parts of the names of fonts that show the same sign for all letters, or emoji."""

_UNASSIGNED = "\U0010ffff"
"""No font has a glyph for this character: it gives a font's sign for a missing one."""

Color = tuple[int, int, int]
Extent = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """A text in parts, each in a font of its own, on a plate (x0, y0, x1, y1) of some colour.

    A font for one script may lack digits, and text that runs right to left must not take the id and
    the score along.
    """

    parts: tuple[str, ...]
    plate: tuple[int, int, int, int]
    color: Color


class Labels:
    """The labels of an overlay of a size, of which none overlaps another."""

    def __init__(self, size: Extent) -> None:
        self.placed: list[Label] = []
        self._size = size
        self._taken = np.zeros((size[1], size[0]), np.bool_)  # pixels of labels
        self._height = max(12, round(max(size) / 60))
        self._margin = max(2, round(max(size) / 300))
        self._line = cache(self._measure)  # each text is measured when placed and when written

    def font(self, text: str) -> ImageFont.FreeTypeFont:
        """Choose a font for a text, a sixtieth of the overlay's longer side.

        Pillow's own font serves where it has every letter, which in practice means ASCII; else the
        first font of the system that has them all; else the one that has the most.
        """
        return _load_font(font_file(frozenset(text)), self._height)

    def extent(self, parts: tuple[str, ...]) -> Extent:
        """Measure a text's plate."""
        _, width, above, below = self._line(parts)
        return width + 2 * self._margin, above + below + 2 * self._margin

    def put(self, parts: tuple[str, ...], left: int, top: int, color: Color) -> bool:
        """Place a text, moved into the overlay, if no earlier label is there."""
        extent = self.extent(parts)
        x0, y0 = (
            min(max(0, start), max(0, side - length))
            for start, side, length in zip((left, top), self._size, extent, strict=True)
        )
        x1, y1 = x0 + extent[0], y0 + extent[1]
        if self._taken[y0:y1, x0:x1].any():
            return False
        self._taken[y0:y1, x0:x1] = True
        self.placed.append(Label(parts=parts, plate=(x0, y0, x1, y1), color=color))
        return True

    def write(self, picture: Image.Image) -> None:
        """Write all labels onto the overlay."""
        canvas = ImageDraw.Draw(picture)
        for label in self.placed:
            x0, y0, x1, y1 = label.plate
            canvas.rectangle((x0, y0, x1 - 1, y1 - 1), fill=label.color)
            starts, _, above, _ = self._line(label.parts)
            base = y0 + self._margin + above
            for part, start in zip(label.parts, starts, strict=True):
                place, ink = (x0 + self._margin + start, base), text_color(label.color)
                canvas.text(place, part, font=self.font(part), anchor="ls", fill=ink)

    def _measure(self, parts: tuple[str, ...]) -> tuple[list[int], int, int, int]:
        """Say where parts of a line start, its width, and its heights above and below the base."""
        starts: list[int] = []
        end, above, below = 0, 0, 0
        for part in parts:
            left, top, right, bottom = _extent(font_file(frozenset(part)), self._height, part)
            start = end + (self._height // 4 if starts else 0)
            starts.append(round(start - left))
            end = round(start + right - left)
            above, below = max(above, round(-top)), max(below, round(bottom))
        return starts, end, above, below


def colors_of(found: Sequence[Segment | Detection], categories: Sequence[Category]) -> list[Color]:
    """Choose a colour for each segment or object.

    The first thing of a category has the category's colour, made more vivid; the next ones turn its
    hue, so that neighbours differ; in a video it is an object's track that counts, so that it keeps
    its colour. Stuff has its category's colour.
    """
    base = {category.id: category.color for category in categories}
    counts: dict[int, int] = {}
    colors: list[Color] = []
    for one in found:
        color = base.get(one.category_id, (128, 128, 128))
        if isinstance(one, Detection) or one.is_thing:
            turns = counts.get(one.category_id, 0) if one.track is None else one.track - 1
            counts[one.category_id] = turns + 1
            color = _rotate_hue(color, turns)
        colors.append(color)
    return colors


def draw_segments(
    image: NDArray[np.uint8],
    segment_ids: NDArray[np.int32],
    segments: Sequence[Segment],
    categories: Sequence[Category],
    *,
    scores: bool = True,
) -> Image.Image:
    """Draw segments over their image: things with opaque outlines, stuff fainter; and labels.

    Args:
        image: (H, W, 3), RGB.
        segment_ids: (H, W), 0 = nothing.
        segments: what the ids stand for.
        categories: those of the segments.
        scores: False leaves ids and scores out, as for ground truth.

    Returns:
        k H by k W pixels; k is 1, or 2 to 4 for images far below `COMFORTABLE_SIDE`.
    """
    picture, scale = _enlarged(Image.fromarray(image))
    if scale > 1:
        segment_ids = segment_ids.repeat(scale, axis=0).repeat(scale, axis=1)
    colors = colors_of(segments, categories)
    # Colour and opacity of each id as the four bytes of one number, so that one look-up gives both.
    styles = np.zeros((max((s.id for s in segments), default=0) + 1, 4), np.uint8)
    for segment, color in zip(segments, colors, strict=True):
        styles[segment.id] = (*color, _THING_OPACITY if segment.is_thing else _STUFF_OPACITY)
    packed = styles.view(np.uint32)[:, 0].take(segment_ids)  # k H, k W
    tint = packed.view(np.uint8).reshape(*segment_ids.shape, 4)
    opacity = tint[:, :, 3]
    opacity[_outlines(segment_ids) & (opacity == _THING_OPACITY)] = 255
    colored = Image.fromarray(tint)
    picture.paste(colored, mask=colored)
    place_labels(segment_ids, segments, colors, scores=scores).write(picture)
    return picture


def place_labels(
    segment_ids: NDArray[np.int32],
    segments: Sequence[Segment],
    colors: Sequence[Color],
    *,
    scores: bool = True,
) -> Labels:
    """Find room for a label in each segment of a map (H, W), the largest ones first.

    A label has id, class and score. Where that does not fit it is the id; where that does not fit
    either, or another label is in the way, there is none: hundreds of small segments stay visible.
    Without `scores` a label is the class alone.
    """
    labels = Labels((segment_ids.shape[1], segment_ids.shape[0]))
    anchors = _find_anchors(segment_ids)
    seen = [pair for pair in zip(segments, colors, strict=True) if pair[0].id in anchors]
    for segment, color in sorted(seen, key=lambda pair: (-pair[0].area, pair[0].id)):
        x, y, wide, tall = _center(segment_ids, *anchors[segment.id])
        for parts in _texts(segment, scores=scores):
            width, height = labels.extent(parts)
            fits = width <= wide and height * 1.5 <= tall
            if fits and labels.put(parts, x - width // 2, y - height // 2, color):
                break
    return labels


def draw_objects(
    image: NDArray[np.uint8],
    detections: Sequence[Detection],
    categories: Sequence[Category],
    *,
    scores: bool = True,
) -> Image.Image:
    """Draw boxes with their labels over an image, and masks where there are any.

    Masks are laid over each other faintly, and the first detections lie on top. A label has the
    detection's id, its class and its score; it stands above or in the box, or below it,
    where no earlier label is. Where there is no room it is the id, or there is none.

    Args:
        image: (H, W, 3), RGB.
        detections: the best score first.
        categories: those of the detections.
        scores: False leaves ids and scores out, as for ground truth.

    Returns:
        An overlay of the size that `draw_segments` gives.
    """
    colors = colors_of(detections, categories)
    picture = Image.fromarray(image)
    for detection, color in zip(reversed(detections), reversed(colors), strict=True):
        if (mask := detection.tile_mask) is not None and detection.coarse_mask is not None:
            opacity = Image.fromarray(np.where(mask, np.uint8(_THING_OPACITY), np.uint8(0)))
            y0, x0, y1, x1 = detection.coarse_mask.tile
            picture.paste(color, (x0, y0, x1, y1), opacity)  # into a copy
    picture, scale = _enlarged(picture)
    line = max(2, round(max(picture.size) / 500))
    canvas = ImageDraw.Draw(picture)
    boxes = [tuple(scale * side for side in detection.box) for detection in detections]
    for (x0, y0, x1, y1), color in zip(reversed(boxes), reversed(colors), strict=True):
        # A box may have no extent, and the model may draw it out of the image.
        canvas.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=color, width=line)
    labels = Labels(picture.size)
    for detection, color, (x0, y0, _, y1) in zip(detections, colors, boxes, strict=True):
        for parts in _texts(detection, scores=scores):
            _, height = labels.extent(parts)
            tops = (y0 - height, y0, y1, y1 - height)  # above, in, below, in at the bottom
            if any(labels.put(parts, round(x0), round(top), color) for top in tops):
                break
    labels.write(picture)
    return picture


def missing_letters(letters: frozenset[str], path: Path | None) -> frozenset[str]:
    """Give the letters that the font in a file does not have; None is Pillow's own font.

    Spaces, control characters and combining marks count as there: they need not leave ink.
    """
    font = _load_font(path, 16)
    unknown = _pixels(font, _UNASSIGNED)
    return frozenset(
        letter
        for letter in letters
        if unicodedata.category(letter)[0] not in "ZCM" and _pixels(font, letter) == unknown
    )


@cache
def font_file(letters: frozenset[str]) -> Path | None:
    """Find the file of the font that has the most letters; None stands for Pillow's own font."""
    best, fewest = None, len(missing_letters(letters, None))
    for path in font_files() if fewest else ():
        try:
            missing = len(missing_letters(letters, path))
        except OSError:  # a bitmap font, or a broken one
            continue
        if missing < fewest:
            best, fewest = path, missing
        if not fewest:
            break
    return best


@cache
def _load_font(path: Path | None, height: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(height) if path is None else ImageFont.truetype(path, height)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow is built with FreeType everywhere
    return font


@lru_cache(10_000)  # a run over many images has few classes, numbers and scores
def _extent(path: Path | None, height: int, text: str) -> tuple[float, float, float, float]:
    """Measure a text from the left end of its base line: left, top, right, bottom."""
    return _load_font(path, height).getbbox(text, anchor="ls")


@cache
def font_files() -> list[Path]:
    """List the fonts in `font_folders`, the most suitable first: plain ones, by name."""
    ranked: list[tuple[bool, int, str, Path]] = []
    for path in (path for folder in font_folders() for path in folder.rglob("*")):
        name = path.stem.lower()
        if path.suffix.lower() in (".ttf", ".ttc", ".otf") and not _has(name, _NO_FONTS):
            first = [place for place, begin in enumerate(_FIRST_FONTS) if name.startswith(begin)]
            rank = min(first, default=len(_FIRST_FONTS))
            ranked.append((_has(name, _LAST_FONTS), rank, name, path))
    return [path for _, _, _, path in sorted(ranked)]


def font_folders() -> list[Path]:
    """List where Linux, macOS and Windows keep fonts, and where matplotlib does."""
    folders = [Path(os.path.expanduser(os.path.expandvars(name))) for name in _FONT_FOLDERS]
    matplotlib = find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        folders.append(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf")
    return folders


def _has(name: str, parts: Sequence[str]) -> bool:
    return any(part in name for part in parts)


def _pixels(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    canvas = Image.new("L", (40, 40))
    ImageDraw.Draw(canvas).text((8, 8), letter, fill=255, font=font)
    return canvas.tobytes()


def _texts(one: Segment | Detection, *, scores: bool) -> tuple[tuple[str, ...], ...]:
    """Give the texts that a label may have, in parts, the longest text first."""
    name = " ".join(unicodedata.normalize("NFC", one.label).split())
    number = str(one.id if one.track is None else one.track)
    return ((number, name, f"{one.score:.0%}"), (number,)) if scores else ((name,),)


def text_color(color: Color) -> str:
    """Choose black or white, whichever has more contrast with a colour (WCAG 2: 4.5 or more)."""
    linear = [(channel / 255) ** 2.2 for channel in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.179 else "white"


def _find_anchors(segment_ids: NDArray[np.int32]) -> dict[int, tuple[int, int]]:
    """Find a pixel, x and y, of each segment: inside a long run near the segment's middle row."""
    start = run_starts(segment_ids)
    length = np.diff(start, append=segment_ids.size)
    value = segment_ids.ravel()[start]
    y, x = np.divmod(start, segment_ids.shape[1])
    weight = np.bincount(value, weights=length)
    middle = np.bincount(value, weights=length * y) / np.maximum(weight, 1)
    merit = length - np.abs(y - middle[value])
    order = np.lexsort((-merit, value))  # of each value the run of most merit comes first
    values, firsts = np.unique(value[order], return_index=True)
    best = order[firsts]
    anchors = zip(values.tolist(), (x + length // 2)[best].tolist(), y[best].tolist(), strict=True)
    return {number: (column, row) for number, column, row in anchors if number > 0}


def _center(segment_ids: NDArray[np.int32], x: int, y: int) -> tuple[int, int, int, int]:
    """Move a pixel to the middle of its segment: x, y, and the segment's width and height there."""
    top, bottom = _stretch(segment_ids[:, x], y)
    y = (top + bottom) // 2
    left, right = _stretch(segment_ids[y], x)
    return (left + right) // 2, y, right - left, bottom - top


def _stretch(line: NDArray[np.int32], at: int) -> tuple[int, int]:
    """Give the first and the last, exclusive, of the joined pixels around `at` of its value."""
    edges = np.concatenate([[-1], np.flatnonzero(line != line[at]), [len(line)]])
    place = np.searchsorted(edges, at)
    return int(edges[place - 1]) + 1, int(edges[place])


def _enlarged(picture: Image.Image) -> tuple[Image.Image, int]:
    """Copy an image, enlarged by a whole number if it is small."""
    scale = min(4, max(1, round(COMFORTABLE_SIDE / max(picture.size))))
    size = picture.width * scale, picture.height * scale
    return picture.resize(size, Image.Resampling.BICUBIC), scale


def _rotate_hue(color: Color, turns: int) -> Color:
    """Turn the hue of a colour, and make it vivid enough to stand out from the image."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    hue = (hue + turns * _GOLDEN_ANGLE) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, max(saturation, 0.65), max(value, 0.95))
    return round(red * 255), round(green * 255), round(blue * 255)


def _outlines(segment_ids: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Mark the pixels that have a neighbour of another segment."""
    outline = np.zeros(segment_ids.shape, np.bool_)
    for ids, marks in ((segment_ids, outline), (segment_ids.T, outline.T)):
        differs = ids[1:] != ids[:-1]
        marks[1:] |= differs
        marks[:-1] |= differs
    return outline
