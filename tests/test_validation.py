"""Faults of plain data are one line that names the file, the place and what was expected."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta

from panodetr.errors import CheckpointError, DataError
from panodetr.validation import check, decode_json, read_json


@dataclass(frozen=True, kw_only=True)
class Square:
    side: Annotated[int, Meta(ge=1, le=100)]
    names: dict[str, list[int]]

    def __post_init__(self) -> None:
        if self.side == 13:
            raise ValueError("side is 13; expected another number")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b'{"side": "2", "names": {}}', "side: expected int, got str"),
        (b'{"side": 0, "names": {}}', "side: expected int >= 1"),
        (b'{"side": 101, "names": {}}', "side: expected int <= 100"),
        (b'{"side": 1}', "object missing required field names"),
        (b'{"side": 13, "names": {}}', "side is 13; expected another number"),
        (b'{"side": 1, "names": {"a": [1, null]}}', "names[...][1]: expected int, got null"),
        (b'{"side": 1, "names": ', "it is not valid JSON (Input data was truncated)"),
        (b'{"side": 1, "names": {"\xff": []}}', "it is not valid JSON ('utf-8' codec"),
        (b"", "it is not valid JSON (Input data was truncated)"),
    ],
)
def test_a_fault_is_one_line(tmp_path: Path, text: bytes, fault: str) -> None:
    path = tmp_path / "square.json"
    path.write_bytes(text)
    with pytest.raises(DataError) as caught:
        read_json(path, Square, DataError)
    assert str(caught.value).startswith(f"{path}: ")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match=r"square\.json cannot be read: No such file"):
        read_json(path, Square, DataError)


def test_a_checkpoint_s_json_of_a_gigabyte_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.touch()
    os.truncate(path, 1 << 30)
    with pytest.raises(CheckpointError, match="has 1,073,741,824 bytes; expected 16,777,216 at"):
        read_json(path, dict[str, Any], CheckpointError)


def test_what_fits_is_given() -> None:
    square = Square(side=2, names={"a": [1]})
    assert decode_json(b'{"side": 2, "names": {"a": [1]}}', Square, "it", DataError) == square
    assert (
        check({"side": "2", "names": {"a": [1]}}, Square, "it", DataError, strict=False) == square
    )


def test_deep_nesting_is_a_fault() -> None:
    with pytest.raises(DataError, match="it: it is nested too deeply"):
        decode_json(b"[" * 100_000, list[Any], "it", DataError)
