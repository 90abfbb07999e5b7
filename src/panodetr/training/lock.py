"""One process at a time in a run's folder: two would write over each other's states and log."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from panodetr.errors import PanodetrError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Generator[None, None, None]:
    """Hold a run's folder, which is made, while the block is at work.

    The system lets go of it when the process dies, however it dies. Windows, and a file system that
    has no locks, lets everyone in. A folder in which nothing was written is removed again.

    Raises:
        TrainingError: another process holds it.
        PanodetrError: the system refused to write.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise PanodetrError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        if not _take(handle, folder / LOCK):
            raise TrainingError(
                f"the run in {folder} is at work in another process; wait for its end or stop it, "
                "or choose another --out"
            )
        try:
            yield
        finally:
            if sys.platform != "win32":  # where a file that is open cannot be removed
                with suppress(OSError):
                    (folder / LOCK).unlink()
                    folder.rmdir()
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether a process is at work in a run's folder."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _take(handle, folder / LOCK)
    finally:
        os.close(handle)


def _take(handle: int, path: Path) -> bool:
    """Lock an open file, if nobody else has."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    try:  # whoever had it may have removed it since it was opened here
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
