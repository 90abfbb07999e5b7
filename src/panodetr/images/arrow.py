"""How large an Arrow stream or a Parquet file is once it is unpacked; it is not unpacked here.

A message of a stream is its length, a FlatBuffers table and a body; a batch's body is buffers, of
which each that is compressed begins with its length without (Apache Arrow, "Columnar format",
section "Serialization and IPC"). A column of a Parquet file is pages, each with a header in
Thrift's compact protocol, which alone says what the reader takes; the file's footer may lie.
"""

from __future__ import annotations

import os
import struct
from typing import IO

from panodetr.errors import ImageError
from panodetr.validation import is_bomb

_DICTIONARY, _BATCH = 2, 3
"""What a message may be, beside a schema."""

_LARGEST_PAGE = 1 << 31

# Thrift's types of the fields in a page's header
_TRUE_FALSE, _NUMBERS, _BYTES, _STRUCT = (1, 2), (4, 5, 6), 8, 12


def check_batches(file: IO[bytes], name: str) -> None:
    """Read the headers of an Arrow stream, from its start, and go back there.

    Raises:
        ImageError: a batch would unpack to far more than it is, or this is no such stream.
    """
    try:
        _check(file, name)
    except struct.error as error:
        reason = "it is damaged; expected an Arrow stream"
        raise ImageError(f"{name}: cannot be read: {reason}") from error
    file.seek(0)


def _refuse_bomb(size: int, unpacked: int, name: str) -> None:
    if is_bomb(size, unpacked):
        raise ImageError(
            f"{name}: {size:,} bytes would unpack to {unpacked:,}; expected a table in smaller "
            "parts, or not compressed"
        )


def _check(file: IO[bytes], name: str) -> None:
    while (length := _length(file)) > 0:
        table = _Table(file.read(length))
        body = file.tell()
        kind, header = table.number(1, "<B"), table.table(2)
        batch = header.table(1) if kind == _DICTIONARY else header
        size = table.number(3, "<Q")
        if kind in (_DICTIONARY, _BATCH) and batch.place(3):  # how it is compressed
            unpacked = 0
            for start, packed in batch.buffers(2):
                file.seek(body + start)
                unpacked += struct.unpack("<q", file.read(8))[0] if packed else 0
            _refuse_bomb(size, unpacked, name)
        file.seek(body + size)


def _length(file: IO[bytes]) -> int:
    """Read the length of a message's table, 0 at the end; before 0.15 nothing stood before it."""
    head = file.read(4)
    if head == b"\xff\xff\xff\xff":
        head = file.read(4)
    return struct.unpack("<i", head)[0] if head else 0


def check_pages(file: IO[bytes], start: int, size: int, name: str) -> None:
    """Read the headers of the pages in a part of a Parquet file's column, by its place and size.

    Raises:
        ImageError: they would unpack to far more than they are.
        ValueError: a header is damaged.
    """
    size = min(size, file.seek(0, os.SEEK_END) - start)
    if not is_bomb(size, _LARGEST_PAGE):
        return  # no page can be one
    at, unpacked = start, 0
    while at < start + size:
        file.seek(at)
        header = _read_struct(file)
        whole, packed = header.get(2, -1), header.get(3, -1)
        if min(whole, packed) < 0:
            raise ValueError("a page's header is damaged; expected a Parquet file")
        at, unpacked = file.tell() + packed, unpacked + whole
    _refuse_bomb(size, unpacked, name)


def _read_struct(file: IO[bytes]) -> dict[int, int]:
    """Read a struct of Thrift to its end, and give the numbers in it by their fields."""
    found: dict[int, int] = {}
    field = 0
    while head := int.from_bytes(file.read(1)):
        kind = head & 15
        field = field + (head >> 4) if head >> 4 else _read_signed(file)
        if kind in _NUMBERS:
            found[field] = _read_signed(file)
        elif kind == _BYTES:
            file.seek(_read_varint(file), os.SEEK_CUR)
        elif kind == _STRUCT:
            _read_struct(file)
        elif kind not in _TRUE_FALSE:
            raise ValueError("a page's header is damaged; expected a Parquet file")
    return found


def _read_signed(file: IO[bytes]) -> int:
    value = _read_varint(file)
    return value >> 1 ^ -(value & 1)


def _read_varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = int.from_bytes(file.read(1))
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value


class _Table:
    """A table of FlatBuffers: its fields lie where a second table says, or have their default."""

    def __init__(self, contents: bytes, at: int | None = None) -> None:
        self._contents = contents
        self._at = self._read(0, "<I") if at is None else at

    def _read(self, at: int, kind: str) -> int:
        return struct.unpack_from(kind, self._contents, at)[0]

    def place(self, field: int) -> int:
        """Give where a field lies; 0 where it has its default."""
        fields = self._at - self._read(self._at, "<i")
        if 4 + 2 * field >= self._read(fields, "<H"):
            return 0
        offset = self._read(fields + 4 + 2 * field, "<H")
        return self._at + offset if offset else 0

    def number(self, field: int, kind: str) -> int:
        at = self.place(field)
        return self._read(at, kind) if at else 0

    def table(self, field: int) -> _Table:
        at = self.place(field)
        return _Table(self._contents, at + self._read(at, "<I"))

    def buffers(self, field: int) -> list[tuple[int, int]]:
        """Give the offsets and lengths in a vector of buffers."""
        at = self.place(field)
        at += self._read(at, "<I")
        count = self._read(at, "<I")
        values = struct.unpack_from(f"<{2 * count}q", self._contents, at + 4)
        return list(zip(values[::2], values[1::2], strict=True))
