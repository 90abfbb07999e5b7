"""How commands talk: results on stdout, errors and progress on stderr."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.table import Table


UNBOUNDED = 1 << 16  # letters of a line: no table is wider
LONGEST = 40  # letters of a step's name beside the bar, so that the bar stays on its line


def print_error(message: str) -> None:
    """Print one line on stderr, whatever the message has in it."""
    print(f"panodetr: error: {' '.join(message.split())}", file=sys.stderr)


def print_table(table: Table) -> None:
    """Print a table on stdout, as wide as the terminal, or as the table where there is none."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        unbounded = console.options.update(width=UNBOUNDED)
        console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)


class ProgressBar:
    """Counts work on stderr: a bar on a terminal, else a plain line for every step."""

    def __init__(self, total: int) -> None:
        """Show nothing yet; the bar is there within `with`."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._total = total
        self._done = 0
        self._bar: Progress | None = None
        if console.is_terminal:
            # Nothing is redirected: with stdout in a pipe, rich would send it to stderr instead.
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> ProgressBar:
        """Draw the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()

    def begin(self, what: str) -> None:
        """Name the step that begins."""
        if self._bar:
            short = what if len(what) <= LONGEST else f"…{what[1 - LONGEST :]}"
            self._bar.update(self._task, description=short)
        else:
            print(f"[{self._done + 1}/{self._total}] {what}", file=sys.stderr)

    def end(self) -> None:
        """Count the step that was begun."""
        self._done += 1
        if self._bar:
            self._bar.update(self._task, completed=self._done)

    @contextmanager
    def paused(self) -> Generator[None, None, None]:
        """Clear the bar's line while something else is printed."""
        if self._bar:
            self._bar.stop()
        yield
        if self._bar:
            self._bar.start()
