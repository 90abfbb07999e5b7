from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.process import python

from panodetr.errors import PanodetrError
from panodetr.files import (
    atomic_folder,
    atomic_write,
    check_writable,
    is_leftover,
    write_bytes,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@given(st.binary(max_size=5000), st.binary(max_size=5000))
def test_the_last_contents_written_are_read(tmp_path: Path, first: bytes, second: bytes) -> None:
    path = tmp_path / "deep" / "er" / "file.bin"
    write_bytes(path, first)
    write_bytes(path, second)
    assert path.read_bytes() == second
    assert names(path.parent) == ["file.bin"]


def test_text_and_json_keep_line_ends_and_letters(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "µm\r\nkern\n")
    assert (tmp_path / "a.txt").read_bytes() == "µm\r\nkern\n".encode()
    value = {"label": "noyau cellulaire é", "box": [0.5, 1.0], "none": None}
    write_json(tmp_path / "a.json", value)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"score": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == value
    assert names(tmp_path) == ["a.json", "a.txt"]
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_error_inside_leaves_the_old_file_or_folder_and_nothing_else(tmp_path: Path) -> None:
    path, folder = tmp_path / "file.overlay.png", tmp_path / "model"
    for contents in ("older", "old", "half"):
        with suppress(RuntimeError), atomic_write(path) as file:
            assert file.suffix == ".png"
            file.write_text(contents)
            if contents == "half":
                raise RuntimeError
        with suppress(RuntimeError), atomic_folder(folder) as temporary:
            (temporary / "config.json").write_text(contents)
            (temporary / f"{contents} of the folder").mkdir()
            assert is_leftover(file)
            assert is_leftover(temporary)
            if contents == "half":
                raise RuntimeError
    assert path.read_text() == (folder / "config.json").read_text() == "old"
    assert names(tmp_path) == ["file.overlay.png", "model"]
    assert names(folder) == ["config.json", "old of the folder"]  # replaced with all in it
    assert not is_leftover(path)
    assert not is_leftover(tmp_path / ".writing-notes.txt")


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


def test_killed_midway_the_old_file_or_folder_is_whole_and_a_new_one_is_not_there(
    tmp_path: Path,
) -> None:
    path, folder = tmp_path / "file.bin", tmp_path / "model"
    write_bytes(path, b"old")
    write_bytes(folder / "config.json", b"old")
    for killed in (path, tmp_path / "new.bin"):
        assert python("-c", KILLED_IN_A_FILE, killed).returncode == -signal.SIGKILL
    assert python("-c", KILLED_IN_A_FOLDER, folder).returncode == -signal.SIGKILL
    assert path.read_bytes() == (folder / "config.json").read_bytes() == b"old"
    assert names(folder) == ["config.json"]
    (left,) = [name for name in names(tmp_path) if name not in ("file.bin", "model")]
    assert is_leftover(tmp_path / left)  # of the last process, which removed those before


KILLED_BETWEEN_RENAMES = """
import os, signal, sys
from pathlib import Path
from panodetr import files
files._sync = lambda path: None
rename = Path.rename
def kill(path, target):
    rename(path, target)
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = kill
with files.atomic_folder(Path(sys.argv[1])) as temporary:
    (temporary / "config.json").write_text("new")
"""

WRITES = """
import sys
from pathlib import Path
from panodetr.files import write_bytes
write_bytes(Path(sys.argv[1]), b"another")
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="a process is known by /proc")


@on_linux
def test_the_next_process_that_writes_removes_what_dead_ones_have_left(tmp_path: Path) -> None:
    folder = tmp_path / "a model"
    write_bytes(folder / "config.json", b"old")
    for code, killed in (
        (KILLED_IN_A_FILE, tmp_path / "file.bin"),
        (KILLED_IN_A_FOLDER, folder),
        (KILLED_BETWEEN_RENAMES, folder),
    ):
        assert python("-c", code, killed).returncode == -signal.SIGKILL
    assert not folder.exists()
    assert python("-c", WRITES, tmp_path / "b.bin").returncode == 0
    assert names(tmp_path) == ["a model", "b.bin"]
    assert (folder / "config.json").read_bytes() == b"old"


@on_linux
def test_what_living_processes_and_other_machines_write_stays(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file.bin") as temporary:
        temporary.write_bytes(b"half")
        machine, process, start, _ = temporary.name.removeprefix(".writing-").split("-")
        ours = f"{machine}-{process}-{start}"
        kept = {temporary.name, "b.bin"}
        for owner, age, stays in (
            (ours, 1e6, True),
            (f"{machine}-{process}-{start}1", 0, False),  # whose number is another's now
            (f"{machine}-999999999-1", 0, False),
            (f"00000000-{process}-{start}", 3600, True),
            (f"00000000-{process}-{start}", 1e6, False),
        ):
            path = tmp_path / f".writing-{owner}-{len(names(tmp_path)):012x}.png"
            path.write_bytes(b"")
            changed = time.time() - age
            os.utime(path, (changed, changed))
            kept |= {path.name} if stays else set()
        assert python("-c", WRITES, tmp_path / "b.bin").returncode == 0
        assert set(names(tmp_path)) == kept


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
    done = python("-c", FULL_DISK, path)
    assert done.stderr == ""
    assert done.stdout == f"cannot write {path}: File too large\n"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_what_is_in_the_way_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PanodetrError, match=r"cannot write .*file/a\.json: "):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(PanodetrError, match=r"cannot write .*folder: a folder of this name"):
        write_json(tmp_path / "folder", {})
    with pytest.raises(PanodetrError, match="a file of this name is in the way"):  # noqa: SIM117
        with atomic_folder(tmp_path / "file"):
            pytest.fail("the block must not run")
    assert (tmp_path / "file").read_text() == "precious"
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="these files are POSIX's")
def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for write in (partial(write_text, contents=""), check_writable):
        with pytest.raises(PanodetrError, match=r"cannot write .*pipe: a device or pipe of this"):
            write(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    assert names(tmp_path) == ["pipe"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets few users make links")
def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PanodetrError, match=r"cannot write .*loop: Too many levels of symbolic"):
        check_writable(tmp_path / "loop", folder=True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets few users make links")
def test_links_are_followed(tmp_path: Path) -> None:
    for name in ("file", "folder"):
        (tmp_path / name).symlink_to(Path("disk") / name)
    for contents in ("first", "second"):
        write_text(tmp_path / "file", contents)
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "a").write_text(contents)
        assert (tmp_path / "disk" / "file").read_text() == contents
        assert (tmp_path / "disk" / "folder" / "a").read_text() == contents
    assert names(tmp_path) == ["disk", "file", "folder"]
    assert names(tmp_path / "disk") == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PanodetrError, match=r"cannot write .*: Permission denied"):
        write_text(tmp_path / "a.txt", "x")
