"""Each kind of input gives the same images, once each and in order."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from panodetr.errors import ImageError, PanodetrError
from panodetr.images.read import NamedImage, origin_of, read_image
from panodetr.images.sources import Frame, Source, each_image, find_sources

COUNT = 3
PIXELS = [np.full((6, 8, 3), 40 * number, np.uint8) for number in range(1, COUNT + 1)]


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_folder(folder: Path) -> Path:
    path = folder / "images"
    path.mkdir()
    for number, pixels in enumerate(PIXELS):
        (path / f"{number}.png").write_bytes(png(pixels))
    (path / "readme.txt").write_bytes(b"x")
    return path


def write_tar(folder: Path, name: str = "shard.tar") -> Path:
    """As WebDataset writes it: an image and its labels share a key."""
    path = folder / name
    with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
        for number, pixels in enumerate(PIXELS):
            for end, contents in ((".png", png(pixels)), (".json", b"{}")):
                member = tarfile.TarInfo(f"{number:06}{end}")
                member.size = len(contents)
                archive.addfile(member, io.BytesIO(contents))
    return path


def write_zip(folder: Path) -> Path:
    path = folder / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/._0.png", b"x")
        for number, pixels in enumerate(PIXELS):
            archive.writestr(f"sub/{number}.png", png(pixels))
    return path


def write_parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "images.parquet"
    images = [{"bytes": png(p), "path": f"{n}.png"} for n, p in enumerate(PIXELS)]
    table = pa.table({"label": list(range(COUNT)), "image": images})
    pq.write_table(table, path, row_group_size=2)
    return path


def write_arrow(folder: Path) -> Path:
    """A data set on disk, as Hugging Face's `save_to_disk` lays it out."""
    import pyarrow as pa

    path = folder / "train"
    path.mkdir()
    images = [{"bytes": png(p), "path": None} for p in PIXELS]
    table = pa.table({"image": images, "label": list(range(COUNT))})
    with pa.ipc.new_stream(str(path / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    (path / "state.json").write_text("{}")
    (path / "dataset_info.json").write_text("{}")
    return path


def write_tiff(folder: Path) -> Path:
    path = folder / "pages.tif"
    first, *others = map(Image.fromarray, PIXELS)
    first.save(path, save_all=True, append_images=others)
    return path


KINDS: list[Callable[[Path], Path]] = [
    write_folder,
    write_tar,
    partial(write_tar, name="shard.tar.gz"),
    write_zip,
    write_parquet,
    write_arrow,
    write_tiff,
]


@pytest.mark.parametrize("write", KINDS)
def test_each_kind_gives_the_same_images_in_order(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    images = list(each_image(find_sources([write(tmp_path)])))
    assert len(images) == COUNT
    for image, pixels in zip(images, PIXELS, strict=True):
        assert np.array_equal(read_image(image), pixels)
    names = [str(origin_of(image)) for image in images]
    assert len(set(names)) == COUNT
    assert all(name.startswith(str(tmp_path)) for name in names)


def test_a_member_that_begins_like_no_image_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10_000_000))
    (image,) = each_image(find_sources([path]))
    assert isinstance(image, NamedImage)
    assert len(image.image) == 1 << 20
    with pytest.raises(ImageError, match="not an image, or broken"):
        read_image(image)


def test_rows_of_a_table_are_unpacked_one_by_one(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = b"BM" + bytes(1 << 22)
    path = tmp_path / "a.parquet"
    # Each value is kept once, in a dictionary.
    pq.write_table(pa.table({"image": [row] * 16}), path, dictionary_pagesize_limit=1 << 30)
    before = pa.total_allocated_bytes()
    for _ in each_image(find_sources([path])):
        assert pa.total_allocated_bytes() - before < 4 * len(row)


@pytest.mark.parametrize("packed", [None, "zstd", "lz4"])
def test_batches_of_an_arrow_stream_are_measured_before_they_are_unpacked(
    tmp_path: Path, packed: str | None
) -> None:
    import pyarrow as pa

    def write(name: str, column: Any, **others: Any) -> Path:
        table = pa.table({"image": column, **others})
        options = pa.ipc.IpcWriteOptions(compression=packed)
        with pa.ipc.new_stream(tmp_path / name, table.schema, options=options) as stream:
            stream.write_table(table, max_chunksize=2)
        return tmp_path / name

    rows = [b"BM" + bytes([number]) * 5000 for number in range(3)]
    category = pa.array(["a", "b", "a"]).dictionary_encode()
    images = each_image(find_sources([write("a.arrow", rows, label=category)]))
    assert [image.image for image in images if isinstance(image, NamedImage)] == rows
    large = pa.array([bytes(20_000_000)] * 2)
    bombs = {
        "rows.arrow": (large, {}),
        "others.arrow": (rows[:2], {"x": large.dictionary_encode()}),
    }
    for name, (column, others) in bombs.items() if packed else ():
        file = write(name, column, **others)
        with pytest.raises(ImageError, match=rf"{name}: .* bytes would unpack to [24]0,000,"):
            next(each_image(find_sources([file])))


def test_a_column_of_a_table_that_unpacks_too_far_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [bytes(20_000_000) + bytes([number]) for number in range(2)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet", compression="zstd")
    file = tmp_path / "a.parquet"
    part = pq.ParquetFile(file).metadata.row_group(0).column(0)

    def told(size: int) -> bytes:  # as the footer has it, in four bytes
        return bytes(2 * size >> 7 * n & 127 | 128 * (n < 3) for n in range(4))

    for size in (part.total_uncompressed_size, 1000):  # the second is a lie
        file.write_bytes(file.read_bytes().replace(told(part.total_uncompressed_size), told(size)))
        assert pq.ParquetFile(file).metadata.row_group(0).column(0).total_uncompressed_size == size
        with pytest.raises(ImageError, match=r"a\.parquet: .* bytes would unpack to 40,000,"):
            next(each_image(find_sources([file])))
    table = pa.table({"image": [b"BM"] * 2, "x": rows})  # which is not read
    pq.write_table(table, tmp_path / "b.parquet", compression="zstd")
    assert len(list(each_image(find_sources([tmp_path / "b.parquet"])))) == 2


def test_shards_in_a_folder_and_by_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("b.tar", "a.tar"):
        write_tar(folder, name)
    for given in (folder, folder / "*.tar"):
        assert [Path(source.path).name for source in find_sources([given])] == ["a.tar", "b.tar"]
    write_folder(folder)  # a folder with images is a folder of images
    assert len(find_sources([folder])) == COUNT
    assert len(find_sources([folder], recursive=False)) == 2


def test_standard_input_is_an_image_or_an_archive(tmp_path: Path) -> None:
    code = (
        "from panodetr.images.sources import *; from panodetr.images.read import *\n"
        "print([(origin_of(i), read_image(i).max()) for i in each_image(find_sources(['-']))])"
    )
    run = partial(subprocess.run, [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert run(input=png(PIXELS[0])).stdout == b"[('stdin', np.uint8(40))]\n"
    found = run(input=write_tar(tmp_path).read_bytes()).stdout.decode()
    assert found.count("stdin/00000") == COUNT


@contextmanager
def serving(folder: Path) -> Generator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_urls_of_images_and_of_archives(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_tar(tmp_path)
    with serving(tmp_path) as host:
        images = list(each_image(find_sources([f"{host}/images/1.png", f"{host}/shard.tar"])))
        assert [origin_of(image) for image in images[:2]] == [
            f"{host}/images/1.png",
            f"{host}/shard.tar/000000.png",
        ]
        assert np.array_equal(read_image(images[0]), PIXELS[1])
        assert len(images) == 1 + COUNT
        with pytest.raises(ImageError, match=r"none\.png: cannot be read: .*"):
            list(each_image(find_sources([f"{host}/none.png"])))


def test_other_file_systems(tmp_path: Path) -> None:
    write_folder(tmp_path)
    sources = find_sources([f"file://{tmp_path}/images", f"file://{tmp_path}/images/[01].png"])
    assert [Path(source.path).name for source in sources] == ["0.png", "1.png", "2.png"]
    images = list(each_image(sources))
    assert [read_image(image).max() for image in images] == [40, 80, 120]
    with pytest.raises(ImageError, match="s3fs"):  # the library to install
        list(each_image(find_sources(["s3://bucket/images"])))
    with pytest.raises(ImageError, match="expected http"):
        find_sources(["nonsense://a/b.png"])


def write_video(path: Path, frames: list[NDArray[np.uint8]], rate: int = 10) -> Path:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def test_frames_of_a_video(tmp_path: Path) -> None:
    greys = range(20, 220, 20)
    path = write_video(tmp_path / "a.mp4", [np.full((32, 48, 3), g, np.uint8) for g in greys])
    found = list(each_image(find_sources([path], every=3)))
    frames = [frame for frame in found if isinstance(frame, Frame)]
    assert [(f.number, round(f.time, 3), f.rate) for f in frames] == [
        (0, 0.0, 10), (3, 0.3, 10), (6, 0.6, 10), (9, 0.9, 10)
    ]  # fmt: skip
    for frame in frames:
        pixels = read_image(frame)
        assert pixels.shape == (32, 48, 3)
        assert abs(float(pixels.mean()) - greys[frame.number]) < 4


def test_broken_files_are_named_and_skipped(tmp_path: Path) -> None:
    whole = write_tar(tmp_path)
    contents = whole.read_bytes()
    broken = tmp_path / "cut.tar"
    broken.write_bytes(contents[:2600])  # within the second image
    for name in ("a.zip", "a.parquet", "a.arrow", "a.mp4", "a.tar"):
        (tmp_path / name).write_bytes(b"nonsense" * 100)
    refused: dict[str, PanodetrError] = {}
    inputs = [broken, *(tmp_path / f"a.{end}" for end in ("zip", "parquet", "arrow", "mp4", "tar"))]
    images = list(each_image(find_sources([*inputs, whole]), refused.__setitem__))
    assert len(images) == COUNT + 1
    assert set(refused) == set(map(str, inputs))
    for path, error in refused.items():
        assert str(error).startswith(f"{path}: cannot be read: ")
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_an_archive_without_images_is_named(tmp_path: Path, name: str) -> None:
    if name == "a.tar":  # as of a disk that lost what was written
        (tmp_path / name).write_bytes(bytes(1 << 20))
    else:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("a.txt", "")
    with pytest.raises(ImageError, match=rf"{name}: no image in it; expected JPEG"):
        list(each_image(find_sources([tmp_path / name])))


def test_a_table_without_images_names_its_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"label": [1], "text": ["a"]}), path)
    with pytest.raises(ImageError, match=r"no column holds images.*label, text"):
        list(Source(path=str(path)).images())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    names = "b.png a.JPG sub/c.tiff .hidden.png .cache/d.png notes.txt e.json"
    for name in names.split():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(root: Path, sources: list[Source]) -> list[str]:
    return [Path(source.path).relative_to(root).as_posix() for source in sources]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["a.JPG", "b.png", "sub/c.tiff"]),  # the folder itself
        ("*", ["a.JPG", "b.png", "sub/c.tiff"]),
        ("notes.txt", ["notes.txt"]),  # named, so taken
        ("*.png", ["b.png"]),
        ("**/*.tiff", ["sub/c.tiff"]),
        ("s?b", ["sub/c.tiff"]),
    ],
)
def test_files_folders_and_patterns(images: Path, pattern: str, expected: list[str]) -> None:
    left: list[str] = []
    assert names(images, find_sources([str(images / pattern)], passed_over=left)) == expected
    left = [Path(file).name for file in left]
    assert left == (["e.json", "notes.txt"] if pattern in ("", "*") else [])


def test_results_below_a_folder_are_no_images_of_it(images: Path) -> None:
    out = images / "out"
    (out / "b_crops").mkdir(parents=True)
    for name in ("b.json", "b_overlay.jpg", "b_panoptic.png", "b_labels.tif", "b_crops/1.png"):
        (out / name).write_bytes(b"x")
    (out / "c_overlay.png").write_bytes(b"x")  # without a JSON: an image
    found = names(images, find_sources([images]))
    assert found == ["a.JPG", "b.png", "out/c_overlay.png", "sub/c.tiff"]


def test_order_is_kept_and_duplicates_are_removed(images: Path) -> None:
    found = find_sources([images / "sub", str(images / "*.png"), images, images / "sub/../b.png"])
    assert names(images, found) == ["sub/c.tiff", "b.png", "a.JPG"]
    path = images / "image[1].png"  # which looks like a pattern
    path.write_bytes(b"x")
    assert names(images, find_sources([path])) == ["image[1].png"]


@pytest.mark.parametrize("given", ["none.png", "*.webp", "empty"])
def test_nothing_found_is_one_line(images: Path, given: str) -> None:
    (images / "empty").mkdir()
    with pytest.raises(ImageError) as error:
        find_sources([str(images / given)])
    assert str(error.value).startswith(f"{images / given}: ")
    assert "\n" not in str(error.value)
    refused: list[str] = []
    assert find_sources([str(images / given)], refuse=lambda name, _: refused.append(name)) == []
    assert refused == [str(images / given)]
