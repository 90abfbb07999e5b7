"""A whole run in processes of its own, with everything that makes a step cheaper."""

from __future__ import annotations

from pathlib import Path

import pytest

from panodetr.checkpoints.load import load_checkpoint
from panodetr.loading import load
from panodetr.training.log import read_log

from .conftest import Program

CHEAPER = ("steps=4", "precision=bfloat16", "accumulate=2", "checkpointing=true", "log_every=1",
           "validate_every=4", "batch_size=4", "mask_start=1")  # fmt: skip

LAUNCHERS = {
    "alone": (),
    "launched": (
        "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_run_in_bfloat16_parts_and_with_recomputing_ends_with_a_model(
    program: Program, tmp_path: Path, launcher: str
) -> None:
    settings = [word for change in CHEAPER for word in ("--set", change)]
    out = tmp_path / "run"
    told = program.run(program.begin(out, *settings), launcher=LAUNCHERS[launcher])
    assert f"try it: panodetr segment IMAGE --model {out / 'best'}" in told
    lines = [line for line in read_log(out / "log.jsonl") if "losses" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(0 < line["losses"]["total"] < 1000 for line in lines)
    assert "dice" in lines[-1]["losses"]
    program.run(program.resume(out, "--set", "steps=5"))
    for place in ("best", "model"):
        spec, model = load_checkpoint(out / place)
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
        assert spec.architecture.masks
    images = sorted((program.data / "val").glob("*.png"))
    (result,) = load(out / "model", device="cpu").segment(images[:1])
    assert result.segment_ids.shape == (64, 64)
