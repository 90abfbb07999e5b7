"""What libraries leave behind of a process's signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import faulthandler, gc, signal, sys
import panodetr

faulthandler.enable()  # as pytest does
first, second = (panodetr.load(sys.argv[1], runtime=sys.argv[2]) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
signal.raise_signal(signal.SIGINT)
print(heard)
"""


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_a_signal_is_heard_after_models_are_gone(tiny_folder: Path, runtime: str) -> None:
    order = [sys.executable, "-c", SCRIPT, str(tiny_folder), runtime]
    done = subprocess.run(order, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[1]\n"), done.stderr
