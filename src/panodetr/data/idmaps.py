"""Id maps: pictures whose pixels say which segment they belong to.

In COCO's a pixel's id is R + 256 G + 65536 B, elsewhere its grey value; 0 is void. Id maps are made
of long runs of one id, so whatever counts ids counts runs: no sort of all pixels, no table as long
as the largest id.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from panodetr.errors import DataError
from panodetr.results.id_map import decode_ids, run_starts

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from numpy.typing import NDArray

VOID = 0

# Without loss; and Pillow would also run Ghostscript on an EPS file that came as a .png.
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
_KNOWN = "PNG, TIFF, BMP, GIF or PPM"


def read_id_map(path: Path, size: tuple[int, int]) -> NDArray[np.int32]:
    """Read the ids of one of COCO's id maps, (H, W).

    Args:
        path: a picture without loss: PNG as a rule, or TIFF, BMP, GIF or PPM.
        size: height and width that it must have.

    Raises:
        DataError: the file is missing, not a picture, or of another size or kind of pixels.
    """
    with _opened(path, size) as picture:
        if picture.mode not in ("RGB", "RGBA", "P", "L"):
            raise DataError(f"{path} has {picture.mode} pixels; expected 8-bit RGB")
        # PNG optimisers turn few colours into a palette or greys: the same ids in RGB.
        return decode_ids(np.asarray(picture.convert("RGB")))


def read_gray_id_map(path: Path, size: tuple[int, int]) -> NDArray[np.int32]:
    """Read the ids of a picture whose grey values are the ids, (H, W).

    Of a picture with a palette the places in the palette are the ids, whatever its colours.

    Args:
        path: a picture without loss, PNG or TIFF as a rule.
        size: height and width that it must have.

    Raises:
        DataError: the file is missing, not a picture, of another size or kind of pixels, or has
            negative ids.
    """
    with _opened(path, size) as picture:
        if picture.mode not in ("1", "L", "P") and not picture.mode.startswith("I"):
            raise DataError(
                f"{path} has {picture.mode} pixels; expected one whole number a pixel, "
                "grey of 8 or 16 bits"
            )
        ids = np.asarray(picture).astype(np.int32)
    if ids.min() < 0:
        raise DataError(
            f"{path} has negative ids; expected 0 for background, 1 or more for objects"
        )
    return ids


@contextmanager
def _opened(path: Path, size: tuple[int, int]) -> Generator[Image.Image, None, None]:
    """Open a picture and see that it has its image's size.

    Raises:
        DataError: it is missing, broken, or of another size; also where its pixels turn out broken.
    """
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if picture.size != (size[1], size[0]):
                raise DataError(
                    f"{path} is {picture.width}x{picture.height} pixels; "
                    f"expected {size[1]}x{size[0]}, the size of its image"
                )
            yield picture
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; expected the id map of an image") from error
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path} cannot be read as an id map: it is broken, or not {_KNOWN}, which lose nothing"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as an id map: {reason}") from error


def present_ids(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give the ids that occur in an id map (H, W), void too, each once and rising."""
    flat = ids.ravel()
    return np.unique(flat[run_starts(flat)])
