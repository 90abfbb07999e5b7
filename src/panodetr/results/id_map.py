"""Id maps: images whose pixels are segment ids, in COCO's panoptic format.

A pixel's id is R + 256 G + 65536 B; 0 is no segment.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def encode_ids(segment_ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn ids (H, W), 0 to 2^24 - 1, into colours (H, W, 3): id = R + 256 G + 65536 B."""
    # The low bytes of little-endian numbers are these colours already: a view.
    return np.ascontiguousarray(segment_ids, "<i4")[..., None].view(np.uint8)[..., :3]


def decode_ids(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Turn colours (H, W, 3) back into ids (H, W)."""
    ids = colors[..., 2].astype(np.int32)  # in place from here: one map is held, not several
    for channel in (1, 0):
        ids <<= 8
        ids |= colors[..., channel]
    return ids


def id_map_png(segment_ids: NDArray[np.int32]) -> bytes:
    """Write ids (H, W), 0 to 2^24 - 1, as an RGB PNG.

    Pillow tries five filters on every row. In a map of segments most rows equal the row above, so
    the filter "up" alone serves, in a quarter of the time. It leaves mostly zeros, which zlib's
    run-length strategy packs tighter; only a map that repeats a pattern gets larger.
    """
    height, width = segment_ids.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with the filter's number
    colors = rows[:, 1:].reshape(height, width, 3)
    encoded, highest = encode_ids(segment_ids), int(segment_ids.max(initial=0))
    for channel in range(3):
        if highest >> (8 * channel):  # else it stays black
            plane = np.ascontiguousarray(encoded[..., channel])
            colors[0, :, channel] = plane[0]
            np.subtract(plane[1:], plane[:-1], out=colors[1:, :, channel])
    rows[:, 0] = 2
    runs = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    packed = runs.compress(rows.data) + runs.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def run_starts(*maps: NDArray[np.int32]) -> NDArray[np.intp]:
    """Find where runs begin: pixels in a row that have one id in each of some maps.

    Id maps are made of long runs, so counting runs is far quicker than counting pixels.

    Args:
        maps: (H, W) or (N,), all of one shape.

    Returns:
        Rising positions in the flattened map. Each row of an (H, W) map begins a run.
    """
    begins = np.empty(maps[0].shape, np.bool_)
    begins[..., :1] = True
    np.not_equal(maps[0][..., 1:], maps[0][..., :-1], out=begins[..., 1:])
    for other in maps[1:]:
        begins[..., 1:] |= other[..., 1:] != other[..., :-1]
    return np.flatnonzero(begins)
