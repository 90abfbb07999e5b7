"""Each script of benchmarks/ does its work, at scales that say nothing of speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from panodetr.bench.process import Side
from panodetr.bench.rows import Scale
from panodetr.bench.run import Workshop

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *arguments],
        capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def report(file: Path) -> Any:
    found = json.loads(file.read_text())
    assert found["machine"]["processor"]
    assert found["machine"]["versions"]["torch"]
    return found


def test_inference_writes_every_row_and_tells_by_its_exit_code(tmp_path: Path) -> None:
    done = run("inference", "import", "int8-on-data", "--repeats", "1", "--out", tmp_path)
    rows = report(tmp_path / "inference.json")["rows"]
    assert [row["name"] for row in rows] == ["int8-on-data", "import"]
    assert "FAILED: int8-on-data: this row needs a data set" in done.stdout
    assert done.stdout.startswith((tmp_path / "inference.md").read_text())
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    done = run("inference", "import", "--repeats", "1", "--name", "again", "--out", tmp_path)
    (row,) = report(tmp_path / "again.json")["rows"]
    assert done.returncode == (0 if row["holds"] else 1)


@pytest.mark.slow
def test_training_measures_every_side(tmp_path: Path) -> None:
    done = run(
        "training", "--rounds", "1", "--steps", "1", "--size", "96", "--threads", "1",
        "--out", tmp_path,
    )  # fmt: skip
    found = report(tmp_path / "training.json")
    rows = {row["side"]: row for row in found["rows"]}
    assert list(rows) == ["ours", "original", "transformers", "ours-masks", "original-masks"]
    for other, base in (("original", "ours"), ("original-masks", "ours-masks")):
        assert rows[other]["loss"] == pytest.approx(rows[base]["loss"], rel=1e-4)
        assert rows[other]["ratios"]["time"] > 0
    assert done.returncode == (0 if all(row["holds"] for row in rows.values()) else 1)
    for row in rows.values():
        floors = row["floors"]
        assert row["holds"] == all(row["ratios"][name] >= floor for name, floor in floors.items())


@pytest.mark.slow
def test_quality_and_watershed_score_the_same_photos(tmp_path: Path, few_nuclei: Path) -> None:
    for name in ("quality", "watershed"):
        done = run(name, "--data", few_nuclei, "--photos", "1", "--out", tmp_path)
        assert done.returncode == 0, done.stderr
    found = report(tmp_path / "quality.json")
    assert found["things"] == ["nucleus"]
    assert found["figures"]["per_class"]["nucleus"]["pq"] > 0.3
    assert report(tmp_path / "watershed.json")["figures"]["pq"] > 0.3
    done = run("tables", "--folder", tmp_path)
    assert "| nucleus (things) |" in done.stdout
    assert "watershed (things) |" in done.stdout


@pytest.mark.slow
def test_agreement_of_bfloat16(tmp_path: Path, few_nuclei: Path) -> None:
    done = run("agreement", "bf16", "--data", few_nuclei, "--photos", "1", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    figures = report(tmp_path / "agreement-bf16.json")["figures"]
    assert 0.9 < figures["mask_iou"] < 1
    assert figures["queries"] > 5


def test_without_a_gpu_a_line_says_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("gpu", "--out", tmp_path)
    assert done.stdout == "PyTorch sees no CUDA GPU here: nothing was measured\n"
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parity
def test_scaling_keeps_as_many_queries_at_every_size_on_both_sides(
    script: Callable[[str], ModuleType],
    tiny_scale: Scale,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaling: Any = script("scaling")
    for name, value in (("SIZES", ((64, 96), (96, 128))), ("THEIR_SIZES", ((64, 96), (192, 128)))):
        monkeypatch.setattr(scaling, name, value)
    for name, value in (("USUAL", (96, 128)), ("SMALLER", (64, 96)), ("KEPT", (0, 9))):
        monkeypatch.setattr(scaling, name, value)
    monkeypatch.setattr(scaling, "PHOTOS", (2,))
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
