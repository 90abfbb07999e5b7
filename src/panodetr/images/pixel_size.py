"""How many micrometres a pixel is wide, where an image's file says so."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

from PIL import Image, TiffImagePlugin

if TYPE_CHECKING:
    from pathlib import Path

_MICROMETRES = {
    "nm": 1e-3,
    "um": 1.0,
    "µm": 1.0,  # the micro sign
    "μm": 1.0,  # the Greek letter
    "micron": 1.0,
    "microns": 1.0,
    "mm": 1e3,
    "cm": 1e4,
}
_DESCRIPTION, _RESOLUTION, _UNIT = 270, 282, 296  # TIFF 6.0, section 8
_CENTIMETRE = 3


def read_pixel_size(path: Path) -> float | None:
    """Read the width of a pixel in micrometres from a TIFF.

    OME-TIFF and ImageJ say it in the description; other TIFFs by a resolution per centimetre. One
    per inch is that of a printer, and is not taken.

    Returns:
        None where the file is no TIFF, or says nothing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever reads the image says what is wrong with it
            with Image.open(path, formats=["TIFF"]) as image:
                assert isinstance(image, TiffImagePlugin.TiffImageFile)
                tags = image.tag_v2
                # Pillow reads text as Latin-1, and OME's is UTF-8.
                text = str(tags.get(_DESCRIPTION, "")).encode("latin-1", "replace")
                described = text.decode("utf-8", "replace")
                per_unit = float(tags.get(_RESOLUTION, 0))
                unit = tags.get(_UNIT)
    except (OSError, ValueError, TypeError, ZeroDivisionError):
        return None
    if ome := re.search(r'PhysicalSizeX="([0-9.eE+-]+)"', described):
        named = re.search(r'PhysicalSizeXUnit="([^"]+)"', described)
        return _scaled(float(ome[1]), named[1] if named else "µm")
    if not per_unit > 0:
        return None
    if described.startswith("ImageJ="):
        named = re.search(r"^unit=(.+)$", described, re.MULTILINE)
        return _scaled(1 / per_unit, named[1].strip()) if named else None
    return _scaled(1 / per_unit, "cm") if unit == _CENTIMETRE else None


def _scaled(value: float, unit: str) -> float | None:
    unit = unit.replace(r"\u00B5", "µ")  # as ImageJ writes it
    size = value * _MICROMETRES.get(unit, 0)
    return size if size > 0 else None
