"""Atomic writes: a file is written completely or not at all.

A new file is written under a temporary name in the same folder, flushed to the disk, and renamed
over the old one. A reader of the path sees the old contents or the new, never a part, even if the
process is killed midway. Only `append_text` changes a file in place.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from panodetr.errors import PanodetrError

_IN_WORK = re.compile(r"\.(writing|old)-[0-9a-f]{12}(\.[^.]+)?")


def atomic_write(path: Path, *, flush: bool = True) -> AbstractContextManager[Path]:
    """Give a temporary path that replaces `path` when the block ends without an error.

    Missing parent folders are created. The temporary path keeps the suffix, for writers that choose
    a format by it. If the block raises, the temporary file is removed and `path` is unchanged. An
    `OSError` in the block counts as a failure to write.

    Args:
        path: of the file.
        flush: whether the file survives a power cut, too, which takes milliseconds; a killed
            process never leaves a part.

    Raises:
        PanodetrError: the system refused to write (disk full, no permission, a folder in the way).
    """
    return _atomic(path, folder=False, flush=flush)


def atomic_folder(path: Path) -> AbstractContextManager[Path]:
    """Give a temporary folder that replaces `path` when the block ends without an error.

    An existing folder is replaced with everything in it. POSIX cannot rename over a folder that is
    not empty, so the old one is moved aside first. A process that is killed between the two renames
    leaves nothing at `path` and both complete folders beside it, as `.writing-…` and `.old-…`.

    Raises:
        PanodetrError: the system refused to write, or a file is in the way.
    """
    return _atomic(path, folder=True, flush=True)


@contextmanager
def _atomic(path: Path, *, folder: bool, flush: bool) -> Generator[Path, None, None]:
    with _one_line_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        if folder:
            if path.exists() and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "a file of this name is in the way")
            temporary.mkdir()
    try:
        with _one_line_errors(path):
            yield temporary
            for entry in (*sorted(temporary.rglob("*"), reverse=True), temporary) if flush else ():
                _sync(entry)
            if folder and path.exists():
                _swap(temporary, path)
            else:
                temporary.replace(path)
            if flush:
                _sync(path.parent)
    finally:
        if folder:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the work whose result it will hold.

    Missing parent folders are created.

    Raises:
        PanodetrError: the system refuses, or a folder is in the way.
    """
    with _one_line_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder of this name is in the way")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.touch()
        temporary.unlink()


def write_bytes(path: Path, contents: bytes) -> None:
    """Write `contents` atomically; errors are those of `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(contents)


def write_text(path: Path, contents: str) -> None:
    """Write `contents` atomically as UTF-8; line ends are kept. Errors as for `atomic_write`."""
    write_bytes(path, contents.encode())


def write_json(path: Path, value: object) -> None:
    """Write `value` atomically as indented JSON with a final line end.

    Raises:
        PanodetrError: the system refused to write.
        ValueError: `value` holds a number that JSON cannot express (NaN, infinity).
        TypeError: `value` holds an object that JSON cannot express.
    """
    write_bytes(path, json_bytes(value))


def append_text(path: Path, contents: str) -> None:
    """Append `contents` to a file, as UTF-8. A process that is killed midway leaves a part of it.

    Raises:
        PanodetrError: the system refused to write.
    """
    with _one_line_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(contents)


def json_bytes(value: object) -> bytes:
    """Give the bytes that `write_json` writes.

    Raises:
        ValueError, TypeError: as there.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # File names need not be valid text: lone surrogates are escaped as in JSON.
    return text.encode("utf-8", "backslashreplace")


def is_leftover(path: Path) -> bool:
    """Whether a path is a temporary one of this module, left behind by a killed process."""
    return _IN_WORK.fullmatch(path.name) is not None


@contextmanager
def _one_line_errors(path: Path) -> Generator[None, None, None]:
    """Turn an `OSError` into one line that names the path the user asked for."""
    try:
        yield
    except OSError as error:
        raise PanodetrError(f"cannot write {path}: {error.strerror or error}") from error


def _temporary(path: Path) -> Path:
    """Name a hidden path beside `path` that does not exist yet and has the same suffix."""
    return path.with_name(f".writing-{secrets.token_hex(6)}{path.suffix}")


def _swap(temporary: Path, path: Path) -> None:
    """Replace a folder by another."""
    old = path.with_name(f".old-{temporary.name.removeprefix('.writing-')}")
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
