"""Masks: id maps read from files, COCO's run lengths, and objects drawn into one id map.

In COCO's id maps a pixel's id is R + 256 G + 65536 B, elsewhere its grey value; 0 is void. Id maps
are made of long runs of one id, so whatever counts ids counts runs: no sort of all pixels, no table
as long as the largest id.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from panodetr.data.samples import ObjectTruth, RunLengths, Sample
from panodetr.errors import DataError, PanodetrError
from panodetr.images.read import CountedFile, copy_tiff, list_pages, quiet
from panodetr.results.id_map import decode_ids, run_starts

VOID = 0

MOST_CHARACTERS = 7
"""Of one number in COCO's string of run lengths: 35 bits, more than any image has pixels."""

# Without loss; and Pillow would also run Ghostscript on an EPS file that came as a .png.
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
_KNOWN = "PNG, TIFF, BMP, GIF or PPM"


def read_id_map(path: Path, size: tuple[int, int]) -> NDArray[np.int32]:
    """Read the ids of one of COCO's id maps, (H, W).

    Args:
        path: a lossless image file: PNG as a rule, or TIFF, BMP, GIF or PPM.
        size: height and width that it must have.

    Raises:
        DataError: the file is missing, not an image, or of another size or kind of pixels.
    """
    with opened(path, size) as picture:
        if picture.mode not in ("RGB", "RGBA", "P", "L"):
            raise DataError(f"{path} has {picture.mode} pixels; expected 8-bit RGB")
        # PNG optimisers turn few colours into a palette or greys: the same ids in RGB.
        return decode_ids(np.asarray(picture.convert("RGB")))


def read_gray_id_map(path: Path, size: tuple[int, int]) -> NDArray[np.int32]:
    """Read the ids of an image file whose grey values are the ids, (H, W).

    In a file with a palette the places in the palette are the ids, whatever its colours. RGB with
    three equal channels is grey.

    Args:
        path: a lossless image file, PNG or TIFF as a rule.
        size: height and width that it must have.

    Raises:
        DataError: the file is missing, not an image, of another size or kind of pixels, or has
            negative ids.
    """
    try:
        with opened(path, size) as picture:
            values: NDArray[Any] = np.asarray(picture)
            colors = 1 if picture.mode == "LA" else 3
            greys = picture.mode in ("RGB", "RGBA", "LA")
            if greys and (values[..., :colors] == values[..., :1]).all():
                values = values[..., 0]
            elif picture.mode not in ("1", "L", "P", "F") and not picture.mode.startswith("I"):
                colors = len(picture.convert("RGB").getcolors(picture.width * picture.height) or ())
                raise DataError(
                    f"{path} has {colors} colours, of objects or of classes; expected one whole "
                    "number a pixel: number the objects, or export COCO"
                )
            whole = picture.size
            for page in list_pages(picture, str(path))[1:]:
                picture.seek(page - 1)
                if picture.size != whole or np.asarray(picture).any():
                    raise DataError(
                        f"{path} has objects on page {page}, too; expected all ids on one page"
                    )
    except DataError as error:
        values = _read_wide(path, size, error)
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise DataError(f"{path} has fractions; expected one whole number a pixel")
    if values.min() < -1 or values.max() >= 2**31:
        raise DataError(
            f"{path} has negative ids; expected 0 or -1 for background, 1 or more for objects"
        )
    return np.maximum(values.astype(np.int32), VOID)


def read_objects_map(
    path: Path, size: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Read an id map of grey values (H, W), 0 = background, and list its objects' ids (N,), rising.

    Raises:
        DataError: it cannot be read, or has another size than the image.
    """
    ids = read_gray_id_map(path, size)
    present = present_ids(ids)
    return ids, present[present != VOID]


def _read_wide(path: Path, size: tuple[int, int], failure: DataError) -> NDArray[Any]:
    """Read a TIFF whose numbers Pillow doesn't know, as those of 64 bits."""
    if not isinstance(failure.__cause__, UnidentifiedImageError):
        raise failure
    try:
        values: NDArray[Any] = tifffile.imread(path, key=0)
    except Exception:  # whatever a broken header makes it stumble over
        raise failure from failure.__cause__
    if values.shape != size or values.dtype.kind not in "iuf":
        raise failure
    return values


@contextmanager
def opened(path: Path, size: tuple[int, int] | None) -> Generator[Image.Image, None, None]:
    """Open an id map or mask and check that it has its image's size (H, W); None is any size.

    Raises:
        DataError: it is missing, broken, or of another size; also where its pixels turn out broken.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise OSError("it is a folder, device or pipe")
        file = copy_tiff(path, 0)
        with file.open("rb") if isinstance(file, Path) else file as stream:
            counted: Any = CountedFile(stream)
            with quiet():
                picture = Image.open(counted, formats=_FORMATS)
            if size is not None and picture.size != (size[1], size[0]):
                raise DataError(
                    f"{path} is {picture.width}x{picture.height} pixels; "
                    f"expected {size[1]}x{size[0]}, the size of its image"
                )
            with quiet():  # a broken tag is warned about
                picture.load()
            yield picture
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; expected the id map of an image") from error
    except PanodetrError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path} cannot be read as an id map: it is broken, or not {_KNOWN}, which lose nothing"
        ) from error
    except Exception as error:  # whatever a broken header makes Pillow stumble over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as an id map: {reason}") from error


def present_ids(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give the ids that occur in an id map (H, W), void too, each once and rising."""
    flat = ids.ravel()
    return np.unique(flat[run_starts(flat)])


def decode_counts(text: str) -> list[int]:
    """Decode COCO's string of run lengths.

    Each number is written as characters of five bits and one that says whether more follow, lowest
    bits first; from the fourth number on, as the difference to the last but one.

    Raises:
        ValueError: it is no such string.
    """
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not codes.size:
        return []
    ends = np.flatnonzero(codes < 32)  # R
    if codes.min() < 0 or codes.max() > 63 or not ends.size or ends[-1] != codes.size - 1:
        raise ValueError("no string of run lengths")
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > MOST_CHARACTERS:
        raise ValueError("no string of run lengths: one of them is too long")
    starts = ends - lengths + 1
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)  # the last bit is the sign
    for parity in (1, 2):
        values[parity::2] = values[parity::2].cumsum()
    return values.tolist()


def check_run_lengths(
    mask_size: Sequence[int], counts: str | list[int], size: tuple[int, int], place: str
) -> None:
    """Check COCO's run lengths of a mask against its image.

    Args:
        mask_size: height and width, as the mask gives them.
        counts: the lengths, or COCO's string of them.
        size: height and width of the image.
        place: of the mask, for the message.

    Raises:
        DataError: the sizes differ, or the lengths don't fill the mask.
    """
    if list(mask_size) != list(size):
        raise DataError(
            f"{place}: the mask has the size {list(mask_size)}; expected {list(size)}, the image's "
            "height and width"
        )
    try:
        lengths = decode_counts(counts) if isinstance(counts, str) else counts
    except ValueError as error:
        raise DataError(f"{place}: the mask's counts are {error}; write the mask again") from error
    if min(lengths, default=0) < 0 or sum(lengths) != size[0] * size[1]:
        raise DataError(
            f"{place}: the mask's run lengths don't fill it; expected whole numbers that add up to "
            f"{size[0] * size[1]}"
        )


def encode_mask(
    segmentation: list[list[float]] | RunLengths, size: tuple[int, int]
) -> dict[str, Any]:
    """Encode polygons or run lengths of an image (H, W) as hotcoco's run lengths.

    Polygons are filled by COCO's rule; the object is all that any of them covers.
    """
    if isinstance(segmentation, list):
        return hotcoco.mask.merge(hotcoco.mask.fr_py_objects(segmentation, *size))
    return hotcoco.mask.fr_py_objects(dict(segmentation), *size)


def draw_mask(
    segmentation: list[list[float]] | RunLengths, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Draw polygons or run lengths as a mask (H, W)."""
    return np.asarray(hotcoco.mask.decode(encode_mask(segmentation, size)), np.bool_)


def encode_pixels(mask: NDArray[np.bool_]) -> RunLengths:
    """Encode a mask (H, W) as COCO's string of run lengths."""
    # hotcoco takes ten times as long where columns are not contiguous.
    counts = hotcoco.mask.encode(np.asfortranarray(mask))["counts"].decode("ascii")
    return RunLengths(size=list(mask.shape), counts=counts)


def count_pixels(mask: list[list[float]] | RunLengths, size: tuple[int, int]) -> int:
    """Count the pixels of polygons or run lengths in an image (H, W)."""
    return int(hotcoco.mask.area(encode_mask(mask, size)))


def mask_box(mask: RunLengths, size: tuple[int, int]) -> list[float]:
    """Give the box x, y, width, height of a mask's pixels in an image (H, W)."""
    return [float(edge) for edge in hotcoco.mask.to_bbox(encode_mask(mask, size))]


def draw_id_map(objects: Sequence[ObjectTruth], size: tuple[int, int]) -> NDArray[np.int32]:
    """Draw all objects' masks into one map (H, W): 1 + the object's place, 0 where there is none.

    Where objects overlap, the one of fewer pixels is on top: docs/decisions/011-id-maps.md. Only
    one mask is decoded at a time; as masks are, the map is contiguous column by column.

    Args:
        objects: each with a mask.
        size: of the image.
    """
    encoded = [encode_mask(truth["segmentation"], size) for truth in objects]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    areas = [int(hotcoco.mask.area(mask)) for mask in encoded]
    ids = np.zeros(size, np.int32, order="F")  # masks are decoded column by column
    for place in sorted(range(len(objects)), key=lambda place: -areas[place]):
        np.copyto(ids, place + 1, where=hotcoco.mask.decode(encoded[place]).view(np.bool_))
    return ids


def panoptic_objects(
    sample: Sample, ids: NDArray[np.int32], things: Container[int]
) -> list[ObjectTruth]:
    """Make objects with boxes and masks of panoptic segments.

    Args:
        sample: whose segments.
        ids: its id map (H, W).
        things: the ids of the categories whose segments are objects.
    """
    segments = {s.id: s for s in sample.segments if s.category_id in things}
    categories = {number: segment.category_id for number, segment in segments.items()}
    found = map_objects(ids, categories, sample.image_id)
    for truth, segment in zip(found, segments.values(), strict=True):
        truth["area"], truth["iscrowd"] = float(segment.area), int(segment.is_crowd)
    return found


def map_objects(
    ids: NDArray[np.int32], categories: Mapping[int, int], image_id: int
) -> list[ObjectTruth]:
    """Make objects with boxes and masks of an id map (H, W), given the category of each id."""
    columns = np.asfortranarray(ids)  # run lengths go down the columns
    return [
        mask_object(columns == number, place, image_id, category_id)
        for place, (number, category_id) in enumerate(categories.items(), start=1)
    ]


def mask_object(
    mask: NDArray[np.bool_], number: int, image_id: int, category_id: int
) -> ObjectTruth:
    """Make an object of a mask (H, W), which is fast where its columns are contiguous."""
    encoded = hotcoco.mask.encode(mask)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [float(edge) for edge in hotcoco.mask.to_bbox(encoded)],
        "area": float(hotcoco.mask.area(encoded)),
        "iscrowd": 0,
        "segmentation": RunLengths(size=list(mask.shape), counts=encoded["counts"].decode("ascii")),
    }
