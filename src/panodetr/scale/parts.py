"""The parts of a large run: what each holds, and which are written.

A part's name follows from its sources and from what is done with them, and its file appears whole
or not at all. So a part whose file exists is done, and a part that is written twice is one file.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from panodetr.errors import PanodetrError, UsageError
from panodetr.files import check_writable, is_leftover, write_bytes
from panodetr.images.read import SUFFIXES
from panodetr.images.sources import STDIN

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from panodetr.images.sources import Source


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some of the sources of a run, in their order; `name` is that of its file, without suffix."""

    name: str
    sources: tuple[Source, ...]


def plan_parts(sources: Sequence[Source], settings: object, size: int) -> list[Part]:
    """Share sources out, in their order.

    Args:
        sources: of all images.
        settings: what is done with them, ready for JSON; the names depend on it.
        size: image files in a part; an archive, a table or a video is a part by itself.

    Raises:
        UsageError: standard input is among the sources, which no other process can read.
    """
    groups: list[list[Source]] = []
    full = True
    for source in sources:
        if source.path == STDIN:
            raise UsageError("standard input cannot be read in parts; give files, folders or URLs")
        many = PurePath(source.path).suffix.lower() not in SUFFIXES
        if many or full:
            groups.append([])
        groups[-1].append(source)
        full = many or len(groups[-1]) == size
    parts: list[Part] = []
    for number, group in enumerate(groups):
        held = json.dumps([settings, [asdict(source) for source in group]])
        digest = hashlib.sha256(held.encode()).hexdigest()[:12]
        parts.append(Part(name=f"part-{number:06}-{digest}", sources=tuple(group)))
    return parts


@dataclass(frozen=True, kw_only=True)
class Output:
    """A folder of parts, on this machine or at a URL that fsspec knows.

    Attributes:
        url: an absolute path, or a URL of a store that shows whole files only, such as s3 or gs.
        suffix: of the file that makes a part done.
    """

    url: str
    suffix: str

    def find_missing(self, parts: Sequence[Part], *, resume: bool) -> list[Part]:
        """List the parts that are to be made.

        Raises:
            UsageError: parts are there and the run is new, or they are of another run.
            PanodetrError: the folder cannot be listed, or nothing can be written into it.
        """
        with self._store("list") as (files, root):
            if "file" in files.protocol:
                check_writable(Path(root), folder=True)
            paths = [PurePath(name) for name in files.glob(f"{root}/part-*{self.suffix}")]
        there = {path.stem for path in paths}
        if there and not resume:
            raise UsageError(
                f"{self.url} holds {len(there)} parts; go on with --resume, or choose another --out"
            )
        if others := there - {part.name for part in parts}:
            raise UsageError(
                f"{self.url} holds {min(others)}, which is not of this run: the inputs or options "
                "differ; choose another --out"
            )
        return [part for part in parts if part.name not in there]

    def write(self, name: str, contents: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            PanodetrError: the system or the store refused.
        """
        with self._store("write") as (files, root):
            if "file" in files.protocol:
                write_bytes(Path(root) / name, contents)
            else:
                files.pipe_file(f"{root}/{name}", contents)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; errors are those of `write`."""
        with self._store("remove") as (files, root):
            if files.exists(f"{root}/{name}"):
                files.rm_file(f"{root}/{name}")

    def remove_leftovers(self) -> None:
        """Remove what processes that were killed have left on this machine."""
        with self._store("clean up") as (files, root):
            if "file" in files.protocol:
                for path in [*Path(root).glob(".*"), *Path(root).glob("*/.*")]:
                    if is_leftover(path):
                        path.unlink(missing_ok=True)

    @contextmanager
    def _store(self, what: str) -> Generator[tuple[Any, str]]:
        """Give fsspec's file system and the folder in it; turn their errors into one line."""
        import fsspec

        try:
            yield fsspec.core.url_to_fs(self.url)
        except PanodetrError:
            raise
        except Exception as error:  # each store has errors of its own
            reason = " ".join((str(error) or type(error).__name__).split())
            raise PanodetrError(f"cannot {what} {self.url}: {reason}") from error
