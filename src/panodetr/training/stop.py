"""Asked to stop in the midst of a run: by Ctrl-C, by `kill`, by whoever shares out a cluster.

A step that was interrupted could leave weights of which some are updated and some are not. So the
signal is remembered, the step in hand is finished, and the state after it is kept.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

ONE_PRESS = 1.0
"""Seconds within which another SIGINT is the same one: a terminal and a launcher both send it."""

_HEARD = (
    b"stopping when this step is done; Ctrl-C once more stops at once and keeps nothing of it\n"
)


class StopSignal:
    """Remembers the first SIGINT or SIGTERM within its `with` block.

    Signals that this process ignores stay ignored, and outside the main thread none can be taken.
    """

    def __init__(self, *, aloud: bool) -> None:
        """Take nothing yet.

        Args:
            aloud: whether to say on stderr at once that it was heard.
        """
        self.number: int | None = None
        self._aloud = aloud
        self._heard_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave signals to those who had them before."""
        for number, before in self._before.items():
            signal.signal(number, before or signal.SIG_DFL)  # pyright: ignore[reportArgumentType]

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._heard_at = number, now
            if self._aloud:
                os.write(2, _HEARD)  # print may be at work already, and cannot be entered twice
        elif number == signal.SIGINT and now - self._heard_at > ONE_PRESS:
            raise KeyboardInterrupt
