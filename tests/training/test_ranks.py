"""Several processes that train together, real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import pytest

from panodetr.training.log import read_log

LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

EXACT = (
    "steps=4", "log_every=1", "validate_every=2", "batch_size=4", "mask_start=2", "query_groups=2",
    "spec.architecture.dropout=0", "spec.architecture.backbone.norm=group", "workers=0",
)  # fmt: skip
"""Nothing in which photos of one batch depend on each other, or on luck."""

SETTINGS = [word for change in EXACT for word in ("--set", change)]


class Program(Protocol):
    def begin(self, out: Path, *more: str) -> list[str]: ...
    def run(self, words: list[str], *, launcher: tuple[str, ...] = ()) -> str: ...


@pytest.fixture(scope="module")
def alone(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("ranks") / "alone"
    program.run(program.begin(out, *SETTINGS))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_two_processes_lose_what_one_does(
    program: Program, alone: Path, tmp_path: Path, parts: int
) -> None:
    shared = program.begin(tmp_path / "two", *SETTINGS, "--set", f"accumulate={parts}")
    out = program.run(shared, launcher=LAUNCHER)
    assert out.count("try it:") == 1
    one, two = read_log(alone / "log.jsonl"), read_log(tmp_path / "two" / "log.jsonl")
    assert [line["step"] for line in one] == [line["step"] for line in two] == [1, 2, 2, 3, 4, 4]
    for line, other in zip(one, two, strict=True):
        if "losses" in line:
            assert other["losses"] == pytest.approx(line["losses"], rel=1e-5, abs=1e-5)
        else:
            assert other["validation"] == pytest.approx(line["validation"], abs=1e-3)
    metrics = json.loads((tmp_path / "two" / "best" / "metrics.json").read_text())
    assert metrics["images"] == 4
