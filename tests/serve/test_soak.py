"""A service under load: six seconds for each of PANODETR_SOAK, at most ten minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOAD = Path(__file__).resolve().parents[2] / "benchmarks" / "serve.py"


@pytest.mark.soak
def test_load_gets_the_loops_answers_and_memory_stays(tmp_path: Path) -> None:
    seconds = min(600, 6 * int(os.environ.get("PANODETR_SOAK", "10")))
    command = [sys.executable, LOAD, "--seconds", str(seconds)]
    command += ["--loop-seconds", "3", "--turns", "1", "--warm-up", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
