"""Several processes that train together, real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from panodetr.data.augment import CropAugmentation, Sampler
from panodetr.data.dataset import open_data
from panodetr.training.log import read_log

from .conftest import Program

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (
    "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no",
)  # fmt: skip

EXACT = (
    "steps=4", "log_every=1", "validate_every=2", "batch_size=4", "mask_start=2",
    "spec.architecture.dropout=0", "spec.architecture.backbone.norm=group", "workers=0",
    "learning_rate=4e-5", "backbone_learning_rate=4e-5",
)  # fmt: skip
"""Nothing in which images of one batch depend on each other, or on luck. AdamW divides by gradients
near zero, so at higher rates rounding would grow from step to step."""

SETTINGS = [word for change in EXACT for word in ("--set", change)]


@pytest.fixture(scope="module")
def alone(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, launched as Accelerate does."""
    out = tmp_path_factory.mktemp("ranks") / "alone"
    program.run(program.begin(out, *SETTINGS), launcher=ACCELERATE)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_two_processes_lose_what_one_does(
    program: Program, alone: Path, tmp_path: Path, parts: int
) -> None:
    shared = program.begin(tmp_path / "two", *SETTINGS, "--set", f"accumulate={parts}")
    out = program.run(shared, launcher=TORCHRUN)
    assert out.count("try it:") == 1
    one, two = (
        [line for line in read_log(run / "log.jsonl") if "note" not in line]
        for run in (alone, tmp_path / "two")
    )
    assert [line["step"] for line in one] == [line["step"] for line in two] == [1, 2, 2, 3, 4, 4]
    for line, other in zip(one, two, strict=True):
        if "losses" in line:
            assert other["losses"] == pytest.approx(line["losses"], rel=1e-5, abs=1e-5)
            # AdamW does not see by what a gradient is multiplied: the losses alone would not tell.
            # Later, rounding may fall on the other side of a kink in a loss.
            near = 1e-6 if line["step"] == 1 else 2e-3
            assert other["gradient_norm"] == pytest.approx(line["gradient_norm"], rel=near)
        else:
            assert other["validation"] == pytest.approx(line["validation"], abs=1e-3)
    metrics = json.loads((tmp_path / "two" / "best" / "metrics.json").read_text())
    assert metrics["images"] == 5


@pytest.mark.slow
def test_images_that_another_process_leaves_out_are_named(program: Program, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(program.data, data)
    samples = open_data(data).samples
    sizes = [sample.size for sample in samples]
    seen = Sampler(sizes, CropAugmentation(size=48), seed=0, batch_size=2, sampling="epochs")
    # The second process's first ones, to learn from and to validate with.
    learned, validated = samples[seen.draw(1).index].path, open_data(data, "val").samples[1].path
    for broken in (learned, validated):
        broken.write_bytes(broken.read_bytes()[:200])
    short = ("sampling=epochs", "steps=1", "batch_size=2")
    words = program.begin(tmp_path / "run", *SETTINGS)
    words[words.index(str(program.data))] = str(data)
    words += [word for change in short for word in ("--set", change)]
    program.run(words, launcher=TORCHRUN)
    notes = [line["note"] for line in read_log(tmp_path / "run" / "log.jsonl") if "note" in line]
    for broken in (learned, validated):
        assert sum(str(broken) in note for note in notes) == 1
    metrics = json.loads((tmp_path / "run" / "best" / "metrics.json").read_text())
    assert metrics["images"] == 4
