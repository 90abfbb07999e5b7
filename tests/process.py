"""Python in a process of its own, and how to wait for one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


def start(
    *arguments: object, more: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start it with arguments; `more` adds to the environment, which asks for one thread.

    `options` are of `subprocess.Popen`; unless they say otherwise, stdout and stderr are pipes.
    """
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        text=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", **(more or {})},
        **(pipes | options),
    )


def python(
    *arguments: object, timeout: float | None = 600, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; arguments and options are those of `start`."""
    with start(*arguments, **options) as process:
        try:
            out, errors = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
