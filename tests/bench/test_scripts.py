"""Each script of benchmarks/ does its work, at scales that say nothing of speed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from tests.process import python

from harness.process import Side
from harness.rows import Scale
from harness.run import Workshop
from panodetr.files import write_json
from panodetr.runtimes.torch import full_float32

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(name: str, *arguments: str | Path) -> CompletedProcess[str]:
    return python(BENCHMARKS / f"{name}.py", *arguments)


def report(file: Path) -> Any:
    found = json.loads(file.read_text())
    assert found["machine"]["processor"]
    assert found["machine"]["versions"]["torch"]
    return found


def test_inference_writes_every_row_and_measures_one_anew_beside_the_others(
    tmp_path: Path,
) -> None:
    done = run("inference", "import", "int8-on-data", "--repeats", "1", "--out", tmp_path)
    assert "FAILED: int8-on-data: this row needs a data set" in done.stdout
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    file = tmp_path / "inference.json"
    done = run("inference", "import", "--repeats", "1", "--out", tmp_path)
    kept = report(file)
    assert [row["name"] for row in kept["rows"]] == ["int8-on-data", "import"]
    done = run("inference", "import", "--repeats", "1", "--name", "again", "--out", tmp_path)
    (row,) = report(tmp_path / "again.json")["rows"]
    assert done.returncode == (0 if row["holds"] else 1)
    file.write_text(json.dumps({**kept, "machine": {**kept["machine"], "date": "2020-01-01"}}))
    done = run("inference", "import", "--repeats", "1", "--out", tmp_path)
    assert done.returncode == 1
    assert "is of another machine, day, version" in done.stderr
    assert "Traceback" not in done.stderr
    assert report(file)["machine"]["date"] == "2020-01-01"


@pytest.mark.slow
def test_training_measures_every_side(tmp_path: Path) -> None:
    done = run(
        "training", "--rounds", "1", "--steps", "1", "--size", "96", "--threads", "1",
        "--out", tmp_path,
    )  # fmt: skip
    found = report(tmp_path / "training.json")
    rows = {row["side"]: row for row in found["rows"]}
    sides = ["ours", "original", "compat", "transformers", "ours-masks", "original-masks"]
    assert list(rows) == sides
    for other, base in (("original", "ours"), ("original-masks", "ours-masks")):
        assert rows[other]["loss"] == pytest.approx(rows[base]["loss"], rel=1e-4)
        assert rows[other]["ratios"]["time"] > 0
    assert done.returncode == (0 if all(row["holds"] for row in rows.values()) else 1)
    for row in rows.values():
        floors = row["floors"]
        assert row["holds"] == all(row["ratios"][name] >= floor for name, floor in floors.items())


@pytest.mark.slow
def test_quality_and_watershed_score_the_same_images(tmp_path: Path, few_nuclei: Path) -> None:
    for name, first in (("quality", ("--every", "1000")), ("watershed", ("--images", "1"))):
        done = run(name, "--data", few_nuclei, *first, "--out", tmp_path)
        assert done.returncode == 0, done.stderr
    found = report(tmp_path / "quality.json")
    assert found["things"] == ["nucleus"]
    assert found["figures"]["per_class"]["nucleus"]["pq"] > 0.3
    assert report(tmp_path / "watershed.json")["figures"]["pq"] > 0.3
    done = run("tables", "--folder", tmp_path)
    assert "| nucleus (things) |" in done.stdout
    assert "watershed (things) |" in done.stdout


@pytest.mark.slow
def test_both_sides_of_the_made_up_set_learn_and_are_drawn(tmp_path: Path) -> None:
    done = run("fewer_steps", "--folder", tmp_path, "--out", tmp_path, "--steps", "6")
    assert done.returncode == 0, done.stderr
    sides = report(tmp_path / "fewer-steps.json")["sides"]
    assert [points[-1]["step"] for points in sides.values()] == [2, 6]
    assert (tmp_path / "fewer-steps.png").stat().st_size > 0


def test_without_a_gpu_a_line_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("gpu", "--out", tmp_path)
    assert done.stdout == "PyTorch sees no CUDA GPU here: nothing was measured\n"
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parity
def test_scaling_keeps_as_many_queries_at_every_size_on_both_sides(
    tiny_scale: Scale,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaling: Any = import_module("scaling")
    for name, value in (("SIZES", ((64, 96), (96, 128))), ("THEIR_SIZES", ((64, 96), (192, 128)))):
        monkeypatch.setattr(scaling, name, value)
    for name, value in (("USUAL", (96, 128)), ("SMALLER", (64, 96)), ("KEPT", (0, 9))):
        monkeypatch.setattr(scaling, name, value)
    monkeypatch.setattr(scaling, "IMAGES", (2,))
    workshop = Workshop(tmp_path, replace(tiny_scale, rule=scaling.AS_IT_IS), 1)
    jobs = scaling.make_jobs(workshop, ["torch"], True)
    assert [place.kept for place, _ in jobs] == [3, 3, 0, 9, 3, 3, 3]
    for place, job in jobs:
        with Side(job, 1) as side:
            assert len(side.answer()["kept"]) == place.kept, place
    points = scaling.measure(jobs[-3:], threads=1, repeats=1)
    assert [point.line for point in points] == ["panodetr, torch", "transformers", "transformers"]
    assert all(point.seconds > 0 and point.peak_bytes > 1 << 20 for point in points)
    scaling.draw(points).savefig(tmp_path / "scaling.png")


@pytest.mark.slow
@pytest.mark.parity
def test_gpu_measures_every_row_here_on_the_cpu(tiny_scale: Scale, tmp_path: Path) -> None:
    gpu: Any = import_module("gpu")
    with gpu.arithmetic("float32", "cpu"):
        assert full_float32.is_on()  # on their side, too
    lines: list[dict[str, str]] = []
    gpu.compare_all(Workshop(tmp_path, tiny_scale, 1), "cpu", (1, 16), 0, lines.append, tmp_path)
    rows = ["float32, segment", "bfloat16, segment", "bfloat16, detect"]
    assert [line["row"].rsplit(", ", 1)[0] for line in lines[:5]] == [
        rows[number] for number in (0, 0, 1, 1, 2)
    ]
    for line in lines:
        assert line["faster"].endswith("x"), line
    assert "their 3: classes 100.0 %, box IoU 1.000" in lines[0]["against our float32"]
    assert (tmp_path / "gpu-profile-segment.txt").stat().st_size > 1000
    line = gpu.train_line("cpu", 1, 64, 0)
    assert line["faster"].endswith("x"), line
    assert len(gpu.table([*lines, line])) == 8


@pytest.mark.slow
def test_a_timed_run_goes_on_where_it_was(shared_data: Path, tmp_path: Path) -> None:
    out, curves = tmp_path / "curve.json", list[Any]()
    for minutes in ("0.001", "0.1"):
        done = run(
            "few_images", "--data", shared_data / "coco-instances", "--out", out,
            "--images", "2", "--measured", "2", "--minutes", minutes,
            "--set", "short_side=64", "--set", "batch_size=1",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("{'step': 0}" in done.stdout) == (not curves)
        curves.append(report(out))
    first, second = curves
    assert first["step"] < second["step"]
    assert [len(curve["points"]) for curve in curves] == [1, 2]


@pytest.mark.slow
@pytest.mark.parity
def test_evaluating_from_memory_and_from_files_gives_the_same(shared_data: Path) -> None:
    done = run("evaluation", "panoptic")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PQ, ")


@pytest.mark.parametrize(("off", "code"), [(0.002, 0), (0.011, 1)])
def test_a_checkpoint_is_compared_with_its_card(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, off: float, code: int
) -> None:
    """Without the network: what would be downloaded is there, and figures are made up."""
    script = import_module("coco")
    for part in (*script.PARTS, "annotations/panoptic_val2017"):
        (tmp_path / part).mkdir(parents=True)

    def run(*arguments: str | Path) -> None:
        if arguments[0] == "eval":
            out = Path(arguments[-1])
            out.mkdir(parents=True)
            found = {"pq": 0.451 + off, "boxes": {"ap": 0.401}, "instances": {"ap": 0.33}}
            write_json(out / "metrics.json", found)

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(sys, "argv", ["coco.py", str(tmp_path)])
    assert script.main() == code
