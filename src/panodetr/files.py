"""Atomic writes: a file is written completely or not at all.

A new file is written under a temporary name in the same folder, flushed to the disk, and renamed
over the old one. A reader of the path sees the old contents or the new, never a part, even if the
process is killed midway. Only `append_text` changes a file in place.

A killed process leaves its temporary files. The next process that writes into the folder removes
them: their names hold the machine, the process and its start time, so those of living processes
stay. Those of other machines go when they are `OLD`.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panodetr.errors import PanodetrError, reason_of

if TYPE_CHECKING:
    from PIL import Image

OLD = 24 * 3600
"""Seconds without a change, after which another machine's temporary file was surely left behind."""

# The machine, the process, its start time; a random number; of a folder that was moved, its name.
_OWNER = r"((?P<machine>[0-9a-f]{8})-(?P<process>\d{1,9})-(?P<start>\d*)-)?"
_IN_WORK = re.compile(rf"(?s)\.(writing|old)-{_OWNER}[0-9a-f]{{12}}(-(?P<name>.+)|\.[^.]+)?")

_cleared: set[Path] = set()


def atomic_write(path: Path, *, flush: bool = True) -> AbstractContextManager[Path]:
    """Give a temporary path that replaces `path` when the block ends without an error.

    Missing parent folders are created, and links are followed. The temporary path keeps the suffix,
    for writers that choose a format by it. If the block raises, the temporary file is removed and
    `path` is unchanged. An `OSError` in the block counts as a failure to write.

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
    leaves nothing at `path`, and the next one that writes beside it puts the old folder back.

    Raises:
        PanodetrError: the system refused to write, or a file is in the way.
    """
    return _atomic(path, folder=True, flush=True)


@contextmanager
def _atomic(path: Path, *, folder: bool, flush: bool) -> Generator[Path, None, None]:
    with _one_line_errors(path):
        target = _follow(path, folder=folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target.parent)
        temporary = _temporary(target if folder else target.with_name(path.name))
        if folder:
            temporary.mkdir()
    try:
        with _one_line_errors(path):
            yield temporary
            for entry in (*sorted(temporary.rglob("*"), reverse=True), temporary) if flush else ():
                _sync(entry)
            if folder and target.exists():
                _swap(temporary, target)
            else:
                temporary.replace(target)
            if flush:
                _sync(target.parent)
    finally:
        if folder:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Check that a file, or files in a folder, can be written, before the work that they are for.

    Nothing is created: where folders are missing, the check is of the one that they would lie in.

    Raises:
        PanodetrError: the system refuses, or something is in the way.
    """
    with _one_line_errors(path):
        target = _follow(path, folder=folder)
        wanted = target if folder else target.parent
        place = next(each for each in (wanted, *wanted.parents) if each.exists())
        _clear(place)
        temporary = _temporary(place / "file")
        temporary.touch()
        temporary.unlink()


def _follow(path: Path, *, folder: bool) -> Path:
    """Follow links, and refuse to put a file or folder in place of another kind, such as a pipe."""
    if path.exists() and not (path.is_dir() if folder else path.is_file()):
        kind = "file" if path.is_file() else "folder" if path.is_dir() else "device or pipe"
        raise FileExistsError(errno.EEXIST, f"a {kind} of this name is in the way")
    target = Path(os.path.realpath(path))
    if target.is_symlink():  # links that lead to one another
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def read_bytes(path: Path) -> bytes:
    """Read a file; of one that has no size, as some of the system's that never end, nothing.

    Raises:
        OSError: it is missing, or a folder, device or pipe, which may never end.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is a folder, device or pipe")
    with path.open("rb") as file:
        return file.read(os.fstat(file.fileno()).st_size)


def write_bytes(path: Path, contents: bytes) -> None:
    """Write `contents` atomically; errors are those of `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(contents)


def write_picture(path: Path, picture: Image.Image, *, flush: bool = True, **options: Any) -> None:
    """Write a picture atomically, as JPEG at a path `….jpg`, else as PNG.

    Pillow itself does not notice where a full disk takes only a part of a JPEG.

    Args:
        path: of the file.
        picture: what to write.
        flush: as `atomic_write`.
        options: of Pillow's writer.

    Raises:
        PanodetrError: as `atomic_write`.
    """
    contents = io.BytesIO()
    picture.save(contents, "JPEG" if path.suffix == ".jpg" else "PNG", **options)
    with atomic_write(path, flush=flush) as temporary:
        temporary.write_bytes(contents.getbuffer())


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
    """Whether a path is a temporary one of this module, of a process that lives or not."""
    return _IN_WORK.fullmatch(path.name) is not None


def _clear(folder: Path) -> None:
    """Remove what dead processes have left in a folder; each process looks once."""
    if folder in _cleared:
        return
    _cleared.add(folder)
    for path in folder.glob(".[wo]*"):
        with suppress(OSError):  # another process is as far
            found = _IN_WORK.fullmatch(path.name)
            if found is None or not _is_abandoned(path, found):
                continue
            replaced = folder / (found["name"] or path.name)
            if not replaced.exists():
                path.rename(replaced)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _is_abandoned(path: Path, found: re.Match[str]) -> bool:
    if found["machine"] is None or found["machine"] != _machine():
        return time.time() - path.stat().st_mtime > OLD
    process = int(found["process"])
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return _start_time(process) not in ("", found["start"])


@cache
def _machine() -> str | None:
    """Give a hash of the running system and its list of processes; None beyond Linux.

    Containers have lists of their own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        return sha256(boot + os.readlink("/proc/self/ns/pid").encode()).hexdigest()[:8]
    except OSError:
        return None


def _start_time(process: int) -> str:
    """Give a process's start in clock ticks since the system's; "" where it is not known."""
    try:
        stat = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return ""
    fields = stat.rpartition(b")")[2].split()  # the name before them may hold anything
    return "over" if fields[0] in b"ZX" else fields[19].decode()  # proc_pid_stat(5)


@contextmanager
def _one_line_errors(path: Path) -> Generator[None, None, None]:
    """Turn an `OSError` into one line that names the path the user asked for."""
    try:
        yield
    except BrokenPipeError:  # of stdout or stderr, where progress is told
        raise
    except OSError as error:
        raise PanodetrError(f"cannot write {path}: {reason_of(error)}") from error


def _temporary(path: Path) -> Path:
    """Name a hidden path beside `path` that does not exist yet and has the same suffix."""
    owner = ""
    if (machine := _machine()) is not None:
        process = os.getpid()
        owner = f"{machine}-{process}-{_start_time(process)}-"
    return path.with_name(f".writing-{owner}{secrets.token_hex(6)}{path.suffix}")


def _swap(temporary: Path, path: Path) -> None:
    """Replace a folder by another."""
    token = temporary.name.removeprefix(".writing-").removesuffix(path.suffix)
    old = path.with_name(f".old-{token}-{path.name}")
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
