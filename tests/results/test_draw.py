from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from panodetr.results import draw
from panodetr.results.draw import colors_of, missing_letters, place_labels
from panodetr.results.result import DetectionResult, PanopticResult
from panodetr.results.types import Detection

from .conftest import CATEGORIES, MakeResult


def grid(count: int, side: int = 800) -> NDArray[np.int32]:
    """Ground with `count` x `count` squares, each as wide as its gap."""
    step = side // count
    y, x = np.mgrid[:side, :side]
    inside = (y % step < step // 2) & (x % step < step // 2)
    numbers = y // step * count + x // step + 1
    return np.where(inside, numbers, count * count + 1).astype(np.int32)


def labels(result: PanopticResult, *, scores: bool = True) -> list[draw.Label]:
    found = result.segments, colors_of(result.segments, result.categories)
    return place_labels(result.segment_ids, *found, scores=scores).placed


def texts(placed: list[draw.Label]) -> set[str]:
    return {" ".join(label.parts) for label in placed}


def apart(placed: list[draw.Label]) -> bool:
    """Whether no two labels overlap."""
    shown = np.zeros((2000, 2000), np.int32)
    for label in placed:
        x0, y0, x1, y1 = label.plate
        shown[y0:y1, x0:x1] += 1
    return bool(shown.max() <= 1)


def test_every_segment_is_tinted_and_the_image_is_unchanged(make_result: MakeResult) -> None:
    ids = grid(2)
    ids[:10] = 0
    for shown in (ids, np.zeros_like(ids), np.ones_like(ids)):
        result = make_result(shown)
        before = result.image.copy()
        assert np.array_equal((result.draw() != result.image).any(axis=2), shown > 0)
        assert np.array_equal(result.image, before)


def test_labels_have_ids_classes_and_scores_or_the_id_or_nothing_as_there_is_room(
    make_result: MakeResult,
) -> None:
    result = make_result(grid(2))
    cells = {f"{number} cell 90%" for number in range(1, 5)}
    assert texts(labels(result)) == {*cells, "5 ground 90%"}
    assert texts(labels(result, scores=False)) == {"cell", "ground"}  # as for ground truth
    assert (result.draw() != result.draw(scores=False)).any()
    result = make_result(grid(10))
    placed = labels(result)
    assert texts(placed) == {*(str(number) for number in range(1, 101)), "101 ground 90%"}
    assert apart(placed)
    for label in placed[1:]:
        x0, y0, x1, y1 = label.plate
        assert (result.segment_ids[y0:y1, x0:x1] == int(label.parts[0])).all()
    assert labels(make_result(grid(40))) == []  # neither squares nor gaps of 10 pixels
    images = (np.ones((side, side), np.int32) for side in (1000, 2000))  # text grows with them
    plates = (labels(make_result(image))[0].plate for image in images)
    small, large = (bottom - top for _, top, _, bottom in plates)
    assert large == pytest.approx(2 * small, rel=0.15)


def test_black_or_white_text_has_a_contrast_of_4_5_on_every_colour() -> None:
    for color in np.random.default_rng(0).integers(0, 256, (500, 3)).tolist():
        parts = [c / 255 for c in color]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
        low, high = sorted((luminance, {"black": 0, "white": 1}[draw.text_color(tuple(color))]))
        assert (high + 0.05) / (low + 0.05) > 4.4  # the choice uses a simpler formula


def test_small_images_are_enlarged(make_result: MakeResult) -> None:
    for side, scale in [(100, 4), (256, 3), (384, 2), (600, 1), (2000, 1)]:
        overlay = make_result(np.ones((side, side // 2), np.int32)).draw()
        assert overlay.shape == (side * scale, side // 2 * scale, 3)


def test_outlines_are_opaque_and_hundreds_of_segments_keep_their_own_colours(
    make_result: MakeResult,
) -> None:
    result = make_result(grid(20))
    overlay, chosen = result.draw(), colors_of(result.segments, result.categories)
    assert len(set(chosen)) > 300
    assert chosen[-1] == (40, 40, 200)  # stuff has its category's colour
    assert tuple(overlay[0, 0]) != chosen[0]  # at the image's edge there is no neighbour
    for segment, color in zip(result.segments[:-1], chosen, strict=False):
        _, _, x1, y1 = (int(side) for side in segment.box)
        assert tuple(overlay[y1 - 1, x1 - 1]) == color


def objects(boxes: list[tuple[float, float, float, float]]) -> DetectionResult:
    return DetectionResult(
        detections=tuple(
            Detection(label="cell", category_id=7, score=0.9, box=box) for box in boxes
        ),
        image=np.full((800, 1000, 3), 128, np.uint8),
        source=None,
        categories=CATEGORIES,
    )


def test_labels_of_boxes_avoid_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[draw.Label] = []

    def write(labels: draw.Labels, _: Image.Image) -> None:
        written.extend(labels.placed)

    monkeypatch.setattr(draw.Labels, "write", write)
    boxes = [(300.0, 300.0, 500.0, 500.0), (310.0, 305.0, 505.0, 500.0), (-9.0, -9.0, 50.0, 60.0)]
    objects([*boxes, *boxes]).draw()
    assert {"1 cell 90%", "2 cell 90%", "3 cell 90%"} < texts(written)
    assert apart(written)
    for label in written:
        assert min(label.plate) >= 0
    # Boxes of no size, or outside the image.
    for box in [(5.0, 5.0, 5.0, 5.0), (-50.0, -50.0, -10.0, -10.0), (990.0, 790.0, 2000.0, 900.0)]:
        assert objects([box]).draw().shape == (800, 1000, 3)


SCRIPTS = {
    "Latin": "Zellkern größer, naïve café, Łódź, ő, ç, ğ, İ, ậ",
    "Greek": "κύτταρο πυρήνας",
    "Cyrillic": "ядро клетки",
    "Hebrew": "גרעין התא",
    "Arabic": "نواة الخلية",
    "Chinese": "细胞核",
    "Japanese": "細胞のカク",
    "Korean": "세포핵",
    "Hindi": "कोशिका केंद्रक",
    "Thai": "นิวเคลียส",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_font_of_the_system_shows_every_letter_of_a_script(script: str) -> None:
    letters = frozenset(SCRIPTS[script])
    path = draw.font_file(letters)
    if path is None or missing_letters(letters, path):
        assert script not in ("Latin", "Greek", "Cyrillic")  # which matplotlib's fonts have
        pytest.skip(f"no font here has {script}")
    assert missing_letters(letters, None)


@pytest.fixture
def only_these_fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of fonts, the only one that is searched."""
    caches = draw.font_files, draw.font_file
    monkeypatch.setattr(draw, "font_folders", lambda: [tmp_path])
    for cached in caches:
        cached.cache_clear()
    yield tmp_path
    for cached in caches:
        cached.cache_clear()


def test_without_a_font_letters_are_drawn_as_missing_and_nothing_fails(
    only_these_fonts: Path,
) -> None:
    (only_these_fonts / "broken.ttf").write_bytes(b"no font")
    assert draw.font_file(frozenset("细胞核")) is None
    x0, y0, x1, y1 = draw.Labels((800, 600)).font("细胞核").getbbox("细胞核")
    assert x1 > x0
    assert y1 > y0


def test_plain_fonts_come_before_bold_ones_and_fonts_of_signs_are_left_out(
    only_these_fonts: Path,
) -> None:
    for name in ["LastResort", "ABold", "Some", "DejaVuSans", "NotoColorEmoji"]:
        (only_these_fonts / f"{name}.ttf").touch()
    assert [path.stem for path in draw.font_files()] == ["DejaVuSans", "Some", "ABold"]


def test_the_font_with_the_most_letters_is_taken(only_these_fonts: Path) -> None:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name in ("cmr10.ttf", "DejaVuSans.ttf"):
        shutil.copy(folder / name, only_these_fonts / f"z{name}")
    found = draw.font_file(frozenset("ядро 细"))
    assert found is not None
    assert found.name == "zDejaVuSans.ttf"
