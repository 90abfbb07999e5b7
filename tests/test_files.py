from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panodetr.errors import PanodetrError
from panodetr.files import (
    atomic_folder,
    atomic_write,
    is_leftover,
    write_bytes,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@given(st.binary(max_size=5000), st.binary(max_size=5000))
def test_the_last_contents_written_are_read(tmp_path: Path, first: bytes, second: bytes) -> None:
    path = tmp_path / "deep" / "er" / "file.bin"
    write_bytes(path, first)
    write_bytes(path, second)
    assert path.read_bytes() == second
    assert names(path.parent) == ["file.bin"]


def test_text_keeps_its_line_ends_and_letters(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "µm\r\nkern\n")
    assert (tmp_path / "a.txt").read_bytes() == "µm\r\nkern\n".encode()


def test_json_reads_back(tmp_path: Path) -> None:
    value = {"label": "noyau cellulaire é", "box": [0.5, 1.0], "none": None}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == value


def test_json_that_cannot_be_read_elsewhere_is_not_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"score": 0.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"score": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"score": 0.5}
    assert names(tmp_path) == ["a.json"]


def test_temporary_path_ends_as_the_path_does(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "image.overlay.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"x")


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_error_inside_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="midway"), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError("midway")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


KILLED_IN_A_FILE = """
import os, signal, sys
from pathlib import Path
from panodetr.files import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary, temporary.open("wb") as file:
    file.write(b"new" * 100_000)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""

KILLED_IN_A_FOLDER = """
import os, signal, sys
from pathlib import Path
from panodetr.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as temporary:
    (temporary / "config.json").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_midway_the_old_file_is_whole_and_a_new_one_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")
    for killed in (path, tmp_path / "new.bin"):
        assert run(KILLED_IN_A_FILE, killed).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert not (tmp_path / "new.bin").exists()


def test_killed_midway_the_old_folder_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as temporary:
        (temporary / "config.json").write_text("old")
    assert run(KILLED_IN_A_FOLDER, path).returncode == -signal.SIGKILL
    assert (path / "config.json").read_text() == "old"
    assert names(path) == ["config.json"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from panodetr.errors import PanodetrError
from panodetr.files import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]), b"x" * 5000)
except PanodetrError as error:
    print(error)
"""


def test_no_room_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")
    done = run(FULL_DISK, path)
    assert done.stderr == ""
    assert done.stdout == f"cannot write {path}: File too large\n"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_a_file_in_the_way_of_a_parent_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("not a folder")
    with pytest.raises(PanodetrError, match=r"cannot write .*images/a\.json: "):
        write_json(tmp_path / "images" / "a.json", {})


def test_a_folder_in_the_way_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(PanodetrError, match=r"cannot write .*a\.json: Is a directory"):
        write_json(tmp_path / "a.json", {})
    assert names(tmp_path) == ["a.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(PanodetrError, match=r"cannot write .*: Permission denied"):
        write_text(locked / "a.txt", "x")


def test_a_folder_is_replaced_with_everything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as temporary:
        (temporary / "stale.txt").write_text("old")
        (temporary / "sub").mkdir()
    with atomic_folder(path) as temporary:
        (temporary / "config.json").write_text("new")
    assert names(path) == ["config.json"]
    assert names(tmp_path) == ["model"]


def test_an_error_inside_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as temporary:
        (temporary / "config.json").write_text("old")
    with pytest.raises(RuntimeError, match="midway"), atomic_folder(path) as temporary:  # noqa: PT012
        (temporary / "config.json").write_text("half")
        raise RuntimeError("midway")
    assert (path / "config.json").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_file_in_the_way_of_a_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("precious")
    with pytest.raises(PanodetrError, match="a file of this name is in the way"):  # noqa: SIM117
        with atomic_folder(tmp_path / "model"):
            pytest.fail("the block must not run")
    assert (tmp_path / "model").read_text() == "precious"


def test_names_in_work_are_known_for_what_they_are(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.pt") as one, atomic_folder(tmp_path / "b") as other:
        assert is_leftover(one)
        assert is_leftover(other)
        other.joinpath("x").touch()
        one.touch()
    assert not is_leftover(tmp_path / "a.pt")
    assert not is_leftover(tmp_path / ".writing-notes.txt")
