"""How commands talk: results on stdout, errors and progress on stderr."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rich.progress import Progress
    from rich.table import Table

UNBOUNDED = 1 << 16  # characters of a line: no table is wider
TILES_EVERY = 10.0  # seconds between lines about the tiles of a large image
LONGEST = 40  # characters of a step's name beside the bar, so that the bar stays on its line

QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
"""Whether only errors and JSON are printed (`--quiet`)."""


def print_error(message: str) -> None:
    """Print an error as one line on stderr."""
    print(f"panodetr: error: {' '.join(message.split())}", file=sys.stderr)


def print_line(text: str = "", end: str = "\n") -> None:
    """Print text for people on stdout, unless they want quiet."""
    if not QUIET.get():
        print(text, end=end)


def print_note(text: str) -> None:
    """Print a note or a step of progress on stderr, unless people want quiet."""
    if not QUIET.get():
        print(text, file=sys.stderr, flush=True)


def print_json(value: object, *, indent: int | None = None) -> None:
    """Print one JSON document on stdout, quiet or not; dataclasses become objects, paths text."""
    import msgspec

    value = msgspec.to_builtins(value, enc_hook=str)
    print(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False), flush=True)


def print_table(table: Table) -> None:
    """Print a table on stdout, as wide as the terminal, or as the table where there is none."""
    from rich.console import Console

    if not QUIET.get():
        console = Console()
        if not console.is_terminal:
            console.width = UNBOUNDED
        console.print(table)


def make_bar() -> Progress | None:
    """Make a bar of a description, a count and a rate on stderr; None where it is not wanted."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    if QUIET.get() or not console.is_terminal:
        return None
    # Nothing is redirected: with stdout in a pipe, rich would send it to stderr instead.
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),  # all of it fits into 80 columns
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class ProgressBar:
    """Counts work on stderr, with rate and time left: a bar on a terminal, else plain lines."""

    def __init__(self, total: int | None) -> None:
        """Show nothing yet; the bar is shown within `with`. None: the number is not known."""
        self._total = total
        self._done = 0
        self._began = time.perf_counter()
        self._first_tiles = self._last_tiles = (0, 0.0)  # how many were done, and when
        self._bar = make_bar()
        if self._bar:
            self._task = self._bar.add_task("", total=total, rate="")

    def __enter__(self) -> ProgressBar:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, what: str) -> None:
        """Name the step that begins."""
        what = " ".join(what.splitlines())  # a file's name may have several
        if self._bar:
            short = what if len(what) <= LONGEST else f"…{what[1 - LONGEST :]}"
            self._bar.update(self._task, description=short)
        else:
            rate = f"  ({self._rate()})" if self._done else ""
            of = "" if self._total is None else f"/{self._total}"
            print_note(f"[{self._done + 1}{of}] {what}{rate}")

    def end(self) -> None:
        """Count the step that was begun."""
        self._done += 1
        if self._bar:
            self._bar.update(self._task, completed=self._done, rate=self._rate())

    def tiles(self, done: int, count: int) -> None:
        """Count the tiles of a large image, with the time left; of one that is quick, say nothing.

        Args:
            done: tiles, of an image, or of several that run together.
            count: of how many.
        """
        now = time.perf_counter()
        if done <= self._last_tiles[0] or not self._last_tiles[1]:  # another image's
            self._first_tiles = self._last_tiles = done, now
        if now - self._last_tiles[1] < (0 if self._bar else TILES_EVERY):
            return
        first, began = self._first_tiles
        self._last_tiles = done, now
        if first == done:
            return
        left = duration((now - began) / (done - first) * (count - done))
        text = f"{done} of {count} tiles, {left} left"
        if self._bar:
            self._bar.update(self._task, rate=text)
        else:
            print_note(text)

    @contextmanager
    def paused(self) -> Generator[None, None, None]:
        """Clear the bar's line while something else is printed."""
        self.__exit__()
        yield
        self.__enter__()

    def _rate(self) -> str:
        seconds = max(time.perf_counter() - self._began, 1e-9)
        each = seconds / self._done
        rate = f"{each:.1f} s each" if each > 1 else f"{1 / each:,.1f}/s"
        if self._total is None:
            return rate
        return f"{rate}, {duration(each * (self._total - self._done))} left"


@contextmanager
def counting(what: str) -> Generator[Callable[[int, int], None], None, None]:
    """Give what counts images on stderr: a bar on a terminal, else some ten lines."""
    with ExitStack() as stack:
        bars: list[ProgressBar] = []

        def update(done: int, total: int) -> None:
            if done == 1:  # of the next split
                stack.close()
                bars[:] = [stack.enter_context(ProgressBar(total))]
            if done in (1, total) or done % max(1, total // 10) == 0:
                bars[0].begin(what)
            bars[0].end()

        yield update


def duration(seconds: float) -> str:
    """Write a time as people say it: "45 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"
