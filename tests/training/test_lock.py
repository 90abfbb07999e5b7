"""Locks between real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from panodetr.errors import PanodetrError
from panodetr.training.folder import held, is_held

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no lock")

HOLD = """
import sys, time
from pathlib import Path
from panodetr.training.folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_system_lets_go_of_a_run_whose_process_is_killed(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert is_held(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / ".lock").exists()
    assert not is_held(tmp_path)
    with held(tmp_path):
        assert is_held(tmp_path)


def test_a_folder_in_which_nothing_was_written_is_removed(tmp_path: Path) -> None:
    with held(tmp_path / "empty"), held(tmp_path / "run"):
        (tmp_path / "run" / "config.json").touch()
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["run", "run/config.json"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(PanodetrError, match=r"cannot write .*file"),
        held(tmp_path / "file" / "run"),
    ):
        pass
