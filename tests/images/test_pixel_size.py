from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from panodetr.images.pixel_size import read_pixel_size

PIXELS = np.zeros((4, 5), np.uint8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"}}, 0.25),
        ({"ome": True, "metadata": {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm"}}, 0.25),
        ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "um"}}, 0.5),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "\\u00B5m"}}, 0.25),
        ({"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.5),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({}, None),
    ],
)
def test_a_tiff_says_how_wide_its_pixels_are(
    tmp_path: Path, options: dict[str, Any], expected: float | None
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, **options)
    assert read_pixel_size(tmp_path / "a.tif") == pytest.approx(expected)


def test_other_files_say_nothing(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", dpi=(300, 300))
    (tmp_path / "b.tif").write_bytes(b"II*\0broken")
    assert read_pixel_size(tmp_path / "a.png") is None
    assert read_pixel_size(tmp_path / "b.tif") is None
    assert read_pixel_size(tmp_path / "missing.tif") is None
