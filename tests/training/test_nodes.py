"""Several machines that train together: two launchers on this one's loopback."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.process import wait_until

from panodetr.training.folder import RunFolder
from panodetr.training.log import read_log

from .conftest import Program

pytestmark = pytest.mark.slow

Launcher = Callable[[int, int], tuple[str, ...]]


def torchrun(node: int, port: int) -> tuple[str, ...]:
    return (
        "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--node-rank", str(node), "--master-addr", "127.0.0.1", "--master-port", str(port),
    )  # fmt: skip


def accelerate(node: int, port: int) -> tuple[str, ...]:
    return (
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2",
        "--num_processes", "2", "--machine_rank", str(node), "--main_process_ip", "127.0.0.1",
        "--main_process_port", str(port), "--mixed_precision", "no", "--dynamo_backend", "no",
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(
    program: Program, words: list[str], launcher: Launcher = torchrun
) -> list[subprocess.Popen[str]]:
    """Start both nodes."""
    port = free_port()
    return [program.start(words, launcher=launcher(node, port)) for node in (0, 1)]


def finish(program: Program, nodes: list[subprocess.Popen[str]]) -> None:
    for node in nodes:
        code, _, errors = program.finish(node)
        assert code == 0, errors


def rank_of(node: subprocess.Popen[str]) -> psutil.Process:
    """The process that a launcher has started."""
    (rank,) = psutil.Process(node.pid).children()
    return rank


def wait_for_step(folder: RunFolder, step: int) -> None:
    wait_until(lambda: any(line.get("step", 0) >= step for line in read_log(folder.log)), 90)


@pytest.fixture(scope="module")
def together(program: Program, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of two nodes that was never stopped."""
    folder = RunFolder(tmp_path_factory.mktemp("nodes") / "run")
    finish(program, start(program, program.begin(folder.path)))
    return folder


@pytest.mark.parametrize("launcher", [torchrun, accelerate])
def test_a_rank_that_dies_ends_the_job_with_a_line_and_the_run_goes_on_exactly(
    program: Program, together: RunFolder, tmp_path: Path, launcher: Launcher
) -> None:
    folder = RunFolder(tmp_path / "run")
    nodes = start(program, program.begin(folder.path), launcher)
    wait_for_step(folder, 6)
    began = time.monotonic()
    rank_of(nodes[1]).send_signal(signal.SIGKILL)
    codes, _, errors = zip(*(program.finish(node) for node in nodes), strict=True)
    assert time.monotonic() - began < 60
    assert all(codes)
    assert "another process of this run has ended" in errors[0]
    finish(program, start(program, program.resume(folder.path), launcher))
    for model in ("model", "best"):
        weights = [run.path / model / "model.safetensors" for run in (folder, together)]
        assert weights[0].read_bytes() == weights[1].read_bytes(), model


def test_another_number_of_ranks_is_refused(
    program: Program, together: RunFolder, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(together.path, folder.path)
    words = program.resume(folder.path, "--set", "steps=26")
    code, _, errors = program.finish(program.start(words))
    assert code == 2
    assert "was trained in 2 processes, and now there are 1" in errors
    assert "Traceback" not in errors
