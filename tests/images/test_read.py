from __future__ import annotations

import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.process import python

from panodetr.errors import ImageError
from panodetr.images import depth, read
from panodetr.images.depth import copy_page, read_pixel_size
from panodetr.images.read import (
    MAX_PIXELS,
    Page,
    find_bits,
    find_pages,
    is_one_image,
    read_image,
    read_size,
)
from panodetr.images.sources import open_images

RGB = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
GREY = np.repeat(RGB[:, :, :1], 3, axis=2)
SMOOTH = np.stack([np.add.outer(np.arange(32) * 3, np.arange(48) * 2) + 20] * 3, -1).astype(
    np.uint8
)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # pyright: ignore[reportArgumentType]
    return path


def one_line(error: pytest.ExceptionInfo[ImageError], *parts: str) -> None:
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".ppm", ".webp"])
def test_lossless_formats_give_the_pixels(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(RGB), **options)
    assert np.array_equal(read_image(path), RGB)
    assert np.array_equal(read_image(str(path)), RGB)


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    rgba = Image.fromarray(np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)]))
    assert np.array_equal(read_image(saved(tmp_path / "a.png", rgba)), RGB)


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.webp"])
def test_of_several_pages_the_first_is_read_aloud_and_each_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    frames = [Image.fromarray(np.full_like(RGB, grey)) for grey in (0, 100, 250)]
    options = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options)
    notes: list[str] = []
    assert read_image(path, note=notes.append).max() == 0
    assert notes == [f"{path} has 3 pages, and the first is read; give a Page for another"]
    assert find_pages(path) == [1, 2, 3]
    assert [int(read_image(Page(path, number)).mean()) for number in (1, 2, 3)] == [0, 100, 250]
    with pytest.raises(ImageError, match="has no page 4; expected 1 to 3"):
        read_image(Page(path, 4))
    monkeypatch.setattr("panodetr.images.read.MOST_PAGES", 2)
    with pytest.raises(ImageError, match=f"{name} has more than 2 pages; split it"):
        read_image(path)


def test_smaller_versions_of_a_page_are_no_pages(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(RGB)
        file.write(RGB[::2, ::2], subfiletype=1)
    assert find_pages(tmp_path / "a.tif") == [1]


def test_a_broken_later_page_leaves_the_first_one_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for _ in range(2):
            file.write(RGB)
    with tifffile.TiffFile(path) as file:
        second = file.pages[1].offset
    path.write_bytes(path.read_bytes()[: second + 3])
    assert np.array_equal(read_image(path), RGB)


DEEP = np.random.default_rng(2).integers(0, 4096, (11, 14, 5), dtype=np.uint16)
DEEP[0, 0] = 4095


def shown(values: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    """What values are in 8 bits, where the brightest possible is white."""
    return np.minimum(np.round(values / (2**bits - 1) * 255), 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [
        ("a.png", 1, {}),
        ("a.png", 3, {}),
        ("a.png", 4, {}),
        *(
            ("a.tif", count, {"byteorder": order, "compression": packed})
            for count in (1, 3, 4)
            for order in "<>"
            for packed in (None, "zlib")
        ),
        *(("a.tif", count, {"planarconfig": "separate"}) for count in (3, 4)),
    ],
)
def test_fewer_than_sixteen_bits_are_scaled_where_it_is_said(
    tmp_path: Path, name: str, channels: int, options: dict[str, Any]
) -> None:
    path, values = tmp_path / name, DEEP[..., :channels]
    if name == "a.png":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        path.write_bytes(png_bytes(14, 11, rows, depth=16, kind={1: 0, 3: 2, 4: 6}[channels]))
    else:
        planar = options.get("planarconfig") == "separate"
        stored = values.transpose(2, 0, 1) if planar else values.squeeze()
        kind = "minisblack" if channels == 1 else "rgb"
        tifffile.imwrite(path, stored, photometric=kind, **options)
    notes: list[str] = []
    for bits in (None, 12, 10, 16):
        image = read_image(path, bits=bits, note=notes.append)
        assert np.array_equal(
            image, np.broadcast_to(shown(values[..., :3], bits or 16), (11, 14, 3))
        )
    assert notes == [
        f"{path}: values reach 4,095 of 65,535, so the image is dark; "
        "--bits 12 (bits=12) makes 4,095 white",
        f"{path}: values reach 4,095, and what is above 1,023 (10 bits) is white; "
        "raise --bits (bits=)",
    ]
    assert find_bits([path]) == 12


def test_the_bits_of_a_data_set_are_those_of_its_brightest_image(tmp_path: Path) -> None:
    assert find_bits([saved(tmp_path / "8.png", Image.fromarray(RGB))]) is None
    assert find_bits([tmp_path / "missing.png"]) is None
    paths = [tmp_path / "8.png"]
    for highest, bits in ((200, 8), (900, 10), (4000, 12), (16_000, 14), (60_000, 16)):
        values = np.full((4, 5), highest, np.uint16)
        paths.append(saved(tmp_path / f"{highest}.png", Image.fromarray(values)))
        assert find_bits(paths) == bits
    assert read_image(np.full((4, 5), 1023, np.uint16), bits=10).min() == 255


@pytest.mark.parametrize("kind", ["minisblack", "rgb"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_of_many_channels_three_or_one_are_chosen(
    tmp_path: Path, kind: str, planar: str, dtype: type[np.generic]
) -> None:
    path, values = tmp_path / "a.tif", (DEEP % 256).astype(dtype)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    tifffile.imwrite(path, stored, photometric=kind, planarconfig=planar)
    expected = values if dtype is np.uint8 else shown(values.astype(np.uint16), 16)
    tensor = torch.from_numpy(values.transpose(2, 0, 1).astype(np.uint8))
    sources: list[Any] = [path, path.read_bytes(), values, values.transpose(2, 0, 1), tensor]
    for source in sources:
        of = values.astype(np.uint8) if isinstance(source, torch.Tensor) else expected
        assert np.array_equal(read_image(source, channels=(4, 0, 2)), of[..., [4, 0, 2]])
        assert np.array_equal(read_image(source, channels=(3,)), of[..., [3, 3, 3]])
        with pytest.raises(ImageError, match="has 5 channels, and channels are 0, 1, 5; expected"):
            read_image(source, channels=(0, 1, 5))
        with pytest.raises(ImageError, match="channels"):
            read_image(source)
    with pytest.raises(ImageError, match=r"5 channels, 0 to 4; say which.*--channels") as error:
        read_image(path)
    one_line(error, str(path))
    assert read_size(path) == (11, 14)
    assert find_pages(path) == [1]
    with pytest.raises(ImageError, match="the limit is 100"):
        read_image(path, channels=(0,), max_pixels=100)
    whole = path.read_bytes()
    for length in range(1, len(whole), 20):
        is_refused(path, whole[:length])


def test_colours_and_alpha_need_no_choice(tmp_path: Path) -> None:
    path, values = tmp_path / "a.tif", DEEP.astype(np.uint8)
    for count in (3, 4):
        tifffile.imwrite(path, values[..., :count], photometric="rgb")
        assert np.array_equal(read_image(path), values[..., :3])
    assert np.array_equal(read_image(path, channels=(3, 1, 0)), values[..., [3, 1, 0]])
    png = saved(tmp_path / "a.png", Image.fromarray(RGB))
    assert np.array_equal(read_image(png, channels=(4, 1, 0)), RGB)


@pytest.mark.parametrize(("name", "remedy"), [("a.heic", "converted"), ("a.czi", "as TIFF")])
def test_well_known_formats_that_are_not_read_have_a_remedy(
    tmp_path: Path, name: str, remedy: str
) -> None:
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ImageError, match=remedy):
        read_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_in_its_colour_models(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(SMOOTH).convert(mode), quality=95)
    image = read_image(path)
    assert image.shape == SMOOTH.shape
    assert np.abs(image.astype(int) - SMOOTH).max() <= 6


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "PA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(SMOOTH).convert("L")
    image = grey.convert("P").convert("PA") if mode == "PA" else grey.convert(mode)
    path = saved(tmp_path / ("a.tif" if mode == "PA" else "a.png"), image)
    assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_keeps_its_colours_and_the_caller_its_image(
    tmp_path: Path,
) -> None:
    image = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    image.info["transparency"] = bytes(range(0, 256, 16))
    assert np.array_equal(read_image(image), expected)
    assert image.info["transparency"] == bytes(range(0, 256, 16))
    path = saved(tmp_path / "a.png", image, transparency=image.info["transparency"])
    assert np.array_equal(read_image(path), expected)


@pytest.mark.parametrize(
    ("suffix", "values", "expected"),
    [
        (".tif", np.array([[0, 257, 32896, 65535, 128, 129]], np.uint16), [0, 1, 128, 255, 0, 1]),
        (".tif", np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (".tif", np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
    ],
)
def test_grey_of_16_bits_is_divided_by_257_and_fractions_are_multiplied_by_255(
    tmp_path: Path, suffix: str, values: NDArray[Any], expected: list[int]
) -> None:
    image = read_image(saved(tmp_path / f"a{suffix}", Image.fromarray(values)))
    assert image[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize("value", [2.0, -0.1, float("nan")])
def test_pixels_of_another_range_are_refused(tmp_path: Path, value: float) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array([[0, 70000]], np.int32)))
    with pytest.raises(ImageError, match="32-bit"):
        read_image(path)
    pixels = np.array([[0, value]], np.float32)
    path = saved(tmp_path / "a.tif", Image.fromarray(pixels))
    for source, name in [(path, str(path)), (pixels, "the array")]:
        with pytest.raises(ImageError, match="between 0 and 1") as error:
            read_image(source)
        one_line(error, name)


TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png", ".webp"])
@pytest.mark.parametrize("orientation", [None, *TURNS])
def test_pixels_and_the_size_in_a_header_are_those_of_the_upright_image(
    tmp_path: Path, suffix: str, orientation: int | None
) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(RGB), exif=exif)
    assert read_size(path) == read_image(path).shape[:2]
    if suffix == ".png":
        upright = TURNS[orientation or 1](RGB)
        assert np.array_equal(read_image(path), upright)
        with Image.open(path) as image:
            assert np.array_equal(read_image(image), upright)
        path.write_bytes(path.read_bytes()[:120])  # the pixels are gone
        with pytest.raises(ImageError):
            read_image(path)
        assert read_size(path) in (RGB.shape[:2], RGB.shape[1::-1])


def test_broken_exif_is_ignored_and_what_is_given_copied(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(RGB), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(read_image(path), RGB)
    source = RGB.copy()
    from_array, from_pil = read_image(source), read_image(Image.fromarray(source))
    source[:] = 0
    assert np.array_equal(from_array, RGB)
    assert np.array_equal(from_pil, RGB)
    from_array[:] = 1  # and may be written to


FIRST = np.ascontiguousarray(RGB.transpose(2, 0, 1))  # 3, H, W


@pytest.mark.parametrize("pixels", [RGB, FIRST], ids=["channels last", "channels first"])
@pytest.mark.parametrize(
    ("dtype", "largest"),
    [("u1", 255), ("u2", 65535), (">u2", 65535), ("f2", 1), ("f4", 1), ("f8", 1)],
)
def test_arrays_in_either_layout_and_in_every_type(
    pixels: NDArray[np.uint8], dtype: str, largest: int
) -> None:
    array = (pixels * (largest / 255)).astype(dtype)
    assert np.array_equal(read_image(array), RGB)
    if dtype != ">u2":  # which torch does not have
        tensor = torch.from_numpy(array)
        assert np.array_equal(read_image(tensor), RGB)
        assert np.array_equal(read_image(tensor[..., 0] if pixels is RGB else tensor[0]), GREY)


def test_where_both_layouts_fit_arrays_have_channels_last_and_tensors_first() -> None:
    cube = RGB[:3, :3]
    assert np.array_equal(read_image(cube), cube)
    assert np.array_equal(read_image(torch.from_numpy(cube.transpose(2, 0, 1).copy())), cube)
    # Tensors may have a gradient, or be bfloat16.
    grey = torch.full((4, 5), 0.5, dtype=torch.bfloat16, requires_grad=True)
    assert np.array_equal(read_image(grey), np.full((4, 5, 3), 128))


class Stream:
    """A file object that cannot be rewound, as a network gives it."""

    def __init__(self, contents: bytes) -> None:
        self.read = io.BytesIO(contents).read


def test_bytes_and_file_objects(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(RGB))
    contents = path.read_bytes()
    used = io.BytesIO(contents)
    used.seek(0, io.SEEK_END)
    with path.open("rb") as file:
        forms = (contents, bytearray(contents), memoryview(contents))
        for source in (*forms, used, Stream(contents), file):
            assert np.array_equal(read_image(source), RGB)
            assert is_one_image(source)
        assert not file.closed
    for one in ("a.png", Path("a.png"), RGB, Image.fromarray(RGB), torch.zeros(3, 4, 4), None, 3):
        assert is_one_image(one)  # pyright: ignore[reportArgumentType]
    for several in ([RGB], (RGB,), iter([RGB]), []):
        assert not is_one_image(several)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (b"", "the bytes are empty"),
        (b"no image", "the bytes: not an image"),
        (io.BytesIO(), "the file object: not an image"),
        (io.BytesIO(b"no image"), "the file object: not an image"),
        ("https://host/a.png", "https://host/a.png: this is a URL; download the image"),
        (Path("s3://host/a.png"), "this is a URL"),
        *((np.zeros(shape, np.uint8), "no pixels") for shape in ((0, 4, 3), (4, 0, 3), (0, 0))),
        *(
            (array, re.escape(f"is {array.dtype} of shape {array.shape}; expected uint8, uint16"))
            for array in (RGB.astype(np.int64), RGB > 100, RGB[None], RGB[..., :2], RGB[:4, :4, :1])
        ),
        *(
            (source, f"{name} is not an image; expected a path")
            for source, name in (
                (None, "NoneType"),
                (3, "int"),
                ({"a": 1}, "dict"),
                (io.StringIO("x"), "text file"),
            )
        ),
    ],
)
def test_what_holds_no_image_is_one_line(source: Any, match: str) -> None:
    with pytest.raises(ImageError, match=match) as error:
        read_image(source)
    one_line(error)
    assert isinstance(error.value, TypeError) == ("expected a path" in match)


def png_bytes(width: int, height: int, rows: bytes, depth: int = 8, kind: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(100_000, 100_000, b"\0"))
    with pytest.raises(ImageError, match="10,000,000,000 pixels") as error:
        read_image(path)
    one_line(error, str(path), f"{MAX_PIXELS:,}")


def test_a_gif_that_grows_is_refused_before_the_large_page_is_decoded(tmp_path: Path) -> None:
    def page(side: int) -> tuple[bytes, bytes]:
        packed = io.BytesIO()
        Image.new("P", (side, side)).save(packed, "GIF")
        head, mark, rest = packed.getvalue().partition(b",\0\0\0\0")
        return head, mark + rest[:-1]

    (head, small), (_, large) = page(10), page(2000)
    path = tmp_path / "a.gif"
    path.write_bytes(head + small + large + small + b";")
    assert read_image(Page(path, 1), max_pixels=100).shape == (10, 10, 3)
    for number in (2, 3):
        with pytest.raises(ImageError, match="2000x2000 is 4,000,000 pixels"):
            read_image(Page(path, number), max_pixels=100)


def test_a_broken_tiff_is_one_line_and_libtiff_prints_none(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(RGB), compression="tiff_lzw")
    contents = path.read_bytes()
    path.write_bytes(contents[:10] + b"\xff" * 4 + contents[14:])
    with pytest.raises(ImageError) as error:
        read_image(path)
    one_line(error, str(path), "broken")
    assert capfd.readouterr().err == ""


STORED: dict[str, dict[str, Any]] = {
    "strips": {"compression": "lzw", "rowsperstrip": 7, "byteorder": ">"},
    "tiles": {"compression": "zlib", "tile": (16, 16), "bigtiff": True},
    "jpeg": {"compression": "jpeg", "tile": (16, 16)},
    "16 bits": {"compression": "zlib", "dtype": np.uint16},
    "plain": {},
}


@pytest.mark.parametrize("stored", STORED)
def test_a_page_of_a_large_tiff_is_read_alone_and_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    options = dict(STORED[stored])
    pages = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    pages = pages.astype(options.pop("dtype", np.uint8))
    tifffile.imwrite(path, pages, photometric="rgb", **options)
    whole = [read_image(Page(path, number)) for number in (1, 2, 3)]
    copied: list[int] = []

    def copy(path: Path, place: int) -> IO[bytes]:
        copied.append(place)
        return copy_page(path, place)

    monkeypatch.setattr(read, "copy_page", copy)
    monkeypatch.setattr(read, "MOST_COPIED", 1000)
    for number, expected in enumerate(whole, 1):
        np.testing.assert_array_equal(read_image(Page(path, number)), expected)
    assert copied == [0, 1, 2]


CUT_OFF = """
import os, sys
from panodetr.images import read
read.MOST_COPIED = 1000
decode = read._decode
def cut(*given, **options):
    os.truncate(sys.argv[1], 100)
    return decode(*given, **options)
read._decode = cut
print(read.read_image(sys.argv[1]).sum())
"""


def test_a_large_tiff_that_is_cut_off_before_it_is_decoded_does_not_end_the_process(
    tmp_path: Path,
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    path = saved(tmp_path / "a.tif", Image.fromarray(noise), compression="tiff_lzw")
    done = python("-c", CUT_OFF, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == noise.sum()


def test_a_page_far_larger_than_its_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(RGB), compression="tiff_lzw")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["StripByteCounts"].overwrite(1 << 20)
    for module in (read, depth):
        monkeypatch.setattr(module, "MOST_COPIED", 100)
    with pytest.raises(ImageError) as error:
        read_image(path)
    one_line(error, str(path), "page 1 has 1,0", "or less")


def test_the_callers_limit_counts_and_pillows_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(RGB))
    with pytest.raises(ImageError, match="the limit is 116"):
        read_image(path, max_pixels=116)
    for source in (RGB, Image.fromarray(RGB)):
        with pytest.raises(ImageError, match="the limit is 116"):
            read_image(source, max_pixels=116)
    assert read_image(path, max_pixels=117).shape == RGB.shape
    # 190 million pixels pass our limit, where Pillow would raise: the error is of the missing rows.
    path.write_bytes(png_bytes(19_000, 10_000, b"\0"))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="broken or cut short"):
        read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    saved(tmp_path / "a.tif", Image.fromarray(RGB), compression="tiff_lzw")
    assert np.array_equal(read_image(tmp_path / "a.tif"), RGB)
    monkeypatch.undo()
    assert before == Image.MAX_IMAGE_PIXELS


class _Seen(io.BytesIO):
    """A file that counts how often it is read."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        return super().read(size)


def _packed(format: str, **options: Any) -> bytes:
    contents = io.BytesIO()
    Image.fromarray(RGB).save(contents, format, **options)
    return contents.getvalue()


@pytest.mark.parametrize(
    ("start", "flood", "end"),
    [
        (_packed("JPEG")[:20], b"\0", b""),
        (_packed("JPEG")[:2], b"\xff\xe5\0\2", _packed("JPEG")[2:]),
        (_packed("GIF")[:13], b"\0", b""),
        (_packed("GIF")[:-1], b"\x21\xfe\1a\0", b";"),
        (_packed("PNG")[:33], b"\0\0\0\0abCd" + struct.pack(">I", zlib.crc32(b"abCd")), b""),
        (b"P6\n#", b"a", b"\n1 1\n255\n123"),
    ],
)
def test_a_file_of_endless_small_parts_is_given_up(
    start: bytes, flood: bytes, end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "MOST_READS", 1000)
    file = _Seen(start + flood * 20_000 + end)
    with pytest.raises(ImageError):
        read_image(file)
    assert file.reads < 2000


def test_a_jpeg_too_small_for_its_pixels_or_of_too_many_scans_is_refused() -> None:
    whole = _packed("JPEG", progressive=True)
    assert read_image(whole).shape == RGB.shape
    size = whole.index(b"\xff\xc2") + 5
    large = whole[:size] + struct.pack(">HH", 10_000, 10_000) + whole[size + 4 :]
    with pytest.raises(ImageError) as error:
        read_image(large)
    one_line(error, f"{len(large):,} bytes cannot hold 10000x10000")
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError) as error:
        read_image(large[:-2] + scan * 10_000 + large[-2:])
    one_line(error, "it has 10,010 scans")


@pytest.mark.parametrize("white", [1, 100, 256, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_a_ppm_is_scaled_by_its_own_white(kind: str, white: int) -> None:
    shape = (4, 5, 3) if kind in ("P3", "P6") else (4, 5)
    values = np.random.default_rng(0).integers(0, white + 1, shape)
    header = f"{kind}\n5 4\n{white}\n".encode()
    if kind in ("P2", "P3"):
        contents = header + " # a\n".join(map(str, values.ravel().tolist())).encode()
    else:
        contents = header + values.astype(np.uint8 if white < 256 else ">u2").tobytes()
    read = read_image(contents).reshape(4, 5, 3)
    expected = values if values.ndim == 3 else values[..., None]
    assert np.abs(read - expected * 255 / white).max() <= 0.51
    with pytest.raises(ImageError, match="broken or cut short"):
        read_image(contents[: len(contents) // 2])


def test_the_digits_of_a_pbm_may_stand_together() -> None:
    assert read_image(b"P1\n3 2\n0 1#a\n1\n101")[..., 0].tolist() == [[255, 0, 0], [0, 255, 0]]
    for digits in (b"10101", b"101012", b"-1 0101"):
        with pytest.raises(ImageError, match="broken or cut short"):
            read_image(b"P1\n3 2\n" + digits)


def test_a_tiff_of_too_many_strips_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, rowsperstrip=1)
    assert np.array_equal(read_image(path), RGB)
    monkeypatch.setattr(read, "_MOST_PIECES", 8)
    with pytest.raises(ImageError) as error:
        read_image(path)
    one_line(error, "it is stored in 9 pieces; expected 8 at most")


def test_what_is_no_image_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"hello, world\n" * 30)
    (tmp_path / "zero.png").write_bytes(png_bytes(0, 5, b""))
    saved(tmp_path / "script.eps", Image.fromarray(RGB))  # PostScript is never run
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")  # which would block
    for name, match in [
        ("empty.png", "empty"),
        ("text.jpg", "not an image"),
        ("zero.png", "zero"),
        ("script.eps", "not an image"),
        ("missing.png", "no such file"),
        ("pipe.png", "pipe" if hasattr(os, "mkfifo") else "no such file"),
        ("", "folder"),
    ]:
        for reading in (read_image, read_size):
            with pytest.raises(ImageError, match=match) as error:
                reading(tmp_path / name)
            one_line(error, str(tmp_path / name))


def is_refused(path: Path, contents: bytes) -> bool:
    """Whether a broken image is refused, in one line; any other error fails the test."""
    path.write_bytes(contents)
    try:
        read_image(path, max_pixels=100_000)
    except ImageError as error:
        message = str(error)
    else:
        return False
    assert str(path) in message
    assert "\n" not in message
    return True


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"])
def test_truncated_and_corrupt_files_are_one_line_or_an_image(tmp_path: Path, suffix: str) -> None:
    whole = saved(tmp_path / f"whole{suffix}", Image.fromarray(SMOOTH)).read_bytes()
    path = tmp_path / f"bad{suffix}"
    lengths = range(1, len(whole), max(1, len(whole) // 40))
    refused = [is_refused(path, whole[:length]) for length in lengths]
    assert sum(refused) > 30
    assert refused[-1] or read_image(path).shape == SMOOTH.shape
    random = np.random.default_rng(1)
    for _ in range(60):
        broken = bytearray(whole)
        for place in random.integers(0, min(len(broken), 300), 4):
            broken[place] = random.integers(256)
        is_refused(path, bytes(broken))


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(RGB))
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser reads everything: say no in the system's stead

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageError, match="Permission denied") as error:
        read_image(path)
    one_line(error, str(path))


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
    tifffile.imwrite(tmp_path / "a.tif", RGB[..., 0], **options)
    assert read_pixel_size(tmp_path / "a.tif") == pytest.approx(expected)


@pytest.mark.parametrize("width", [".", "1e400", "-1", "1.2.3"])
def test_a_width_that_is_no_length_says_nothing(tmp_path: Path, width: str) -> None:
    described = f'<OME PhysicalSizeX="{width}"/>'
    tifffile.imwrite(tmp_path / "a.tif", RGB[..., 0], description=described)
    assert read_pixel_size(tmp_path / "a.tif") is None


def test_other_files_say_nothing(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", dpi=(300, 300))
    (tmp_path / "b.tif").write_bytes(b"II*\0broken")
    assert read_pixel_size(tmp_path / "a.png") is None
    assert read_pixel_size(tmp_path / "b.tif") is None
    assert read_pixel_size(tmp_path / "missing.tif") is None


def test_a_png_far_larger_than_its_pixels_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(RGB))
    os.truncate(path, 1 << 27)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "a.png")
    for source in (path, path.read_bytes(), *open_images([tmp_path / "a.zip"])):
        with pytest.raises(ImageError) as error:
            read_image(source)
        one_line(error, "it has more than 67,108,864 bytes beside its pixels; expected a PNG")


def test_the_memory_of_a_very_large_image_is_said_in_plain_digits() -> None:
    with pytest.raises(ImageError, match="which take about 110 GiB, and"):
        read_image(np.broadcast_to(np.uint8(0), (60000, 60000)))
