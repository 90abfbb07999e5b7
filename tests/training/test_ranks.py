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


class Program(Protocol):
    def begin(self, out: Path, *more: str) -> list[str]: ...
    def run(self, words: list[str], *, launcher: tuple[str, ...] = ()) -> str: ...


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_two_processes_lose_what_one_does(program: Program, tmp_path: Path, parts: int) -> None:
    settings = [word for change in EXACT for word in ("--set", change)]
    program.run(program.begin(tmp_path / "one", *settings))
    shared = [*settings, "--set", f"accumulate={parts}"]
    out = program.run(program.begin(tmp_path / "two", *shared), launcher=LAUNCHER)
    assert out.count("try it:") == 1
    one, two = read_log(tmp_path / "one" / "log.jsonl"), read_log(tmp_path / "two" / "log.jsonl")
    assert [line["step"] for line in one] == [line["step"] for line in two] == [1, 2, 2, 3, 4, 4]
    for line, other in zip(one, two, strict=True):
        if "losses" in line:
            assert other["losses"] == pytest.approx(line["losses"], rel=1e-5, abs=1e-5)
        else:
            assert other["validation"] == pytest.approx(line["validation"], abs=1e-3)
    metrics = json.loads((tmp_path / "two" / "best" / "metrics.json").read_text())
    assert metrics["images"] == 4
