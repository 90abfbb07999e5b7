"""Files that are written whole or not at all.

A new file is written under a temporary name in the same folder, flushed to the disk, and renamed
over the old one. Whoever reads the path sees the old contents or the new, never a part, also when
the process is killed midway. Only `append_text` adds to a file as it lies.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from panodetr.errors import PanodetrError

_IN_WORK = re.compile(r"\.(writing|old)-[0-9a-f]{12}(\.[^.]+)?")


@contextmanager
def atomic_write(path: Path) -> Generator[Path, None, None]:
    """Give a temporary path beside `path` that takes its place when the block ends well.

    Folders above `path` are made. The temporary path ends as `path` does, so that writers that go
    by the suffix work. When the block raises, the temporary file is removed and `path` is left as
    it was; an `OSError` in it counts as a failure to write.

    Raises:
        PanodetrError: the system refused to write (disk full, no permission, a folder in the way).
    """
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with _told(path):
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Generator[Path, None, None]:
    """Give a temporary folder beside `path` that takes its place when the block ends well.

    A folder that is already there is replaced with everything in it. POSIX has no rename over a
    full folder, so the old one is moved aside first: a process killed between the two renames
    leaves no folder at `path`, and both whole ones beside it, as `.writing-…` and `.old-…`.

    Raises:
        PanodetrError: the system refused to write, or a file is in the way.
    """
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file of this name is in the way")
        temporary = _temporary(path)
        temporary.mkdir()
    try:
        with _told(path):
            yield temporary
            for entry in sorted(temporary.rglob("*"), reverse=True):
                _sync(entry)
            _sync(temporary)
            _swap(temporary, path)
            _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Find out whether a file can be written, before the work whose result it is to hold.

    Folders above `path` are made.

    Raises:
        PanodetrError: the system refuses, or a folder is in the way.
    """
    with _told(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder of this name is in the way")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.touch()
        temporary.unlink()


def write_bytes(path: Path, contents: bytes) -> None:
    """Write `contents` whole or not at all.

    Raises:
        PanodetrError: the system refused to write.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(contents)


def write_text(path: Path, contents: str) -> None:
    """Write `contents` as UTF-8, whole or not at all, with its line ends as they are.

    Raises:
        PanodetrError: the system refused to write.
    """
    write_bytes(path, contents.encode())


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with a final line end, whole or not at all.

    Raises:
        PanodetrError: the system refused to write.
        ValueError: `value` holds a number that JSON has no word for (NaN, infinity).
        TypeError: `value` holds something that JSON has no form for.
    """
    write_bytes(path, json_bytes(value))


def append_text(path: Path, contents: str) -> None:
    """Add `contents` to the end of a file, as UTF-8; a process killed midway leaves a part of it.

    Raises:
        PanodetrError: the system refused to write.
    """
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(contents)


def json_bytes(value: object) -> bytes:
    """Give what `write_json` writes.

    Raises:
        ValueError, TypeError: as there.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Names of files need not be text. What UTF-8 has no bytes for is escaped as JSON does it.
    return text.encode("utf-8", "backslashreplace")


def is_leftover(path: Path) -> bool:
    """Whether a name is one of those that something has here while it is written or replaced.

    A process that is killed leaves it behind.
    """
    return _IN_WORK.fullmatch(path.name) is not None


@contextmanager
def _told(path: Path) -> Generator[None, None, None]:
    """Turn the system's refusal into one line that names the path the user asked for."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise PanodetrError(f"cannot write {path}: {reason}") from error


def _temporary(path: Path) -> Path:
    """Name something beside `path` that is not there yet, hidden, and ending as `path` does."""
    return path.with_name(f".writing-{secrets.token_hex(6)}{path.suffix}")


def _swap(temporary: Path, path: Path) -> None:
    """Rename a folder over another."""
    if not path.exists():
        temporary.rename(path)
        return
    old = path.with_name(f".old-{temporary.name.removeprefix('.writing-')}")
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Make the system put a file, or a folder's list of names, on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
