from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from panodetr.evaluation.ground_truth import TASKS, GroundTruth
from panodetr.evaluation.plots import PlotsMissing, plot
from panodetr.evaluation.run import evaluate
from panodetr.evaluation.tally import Tally

from .conftest import Annotator


def test_each_task_has_its_plots(nuclei: GroundTruth, tmp_path: Path) -> None:
    figures = evaluate(Annotator(nuclei, shift=1), nuclei, TASKS).tally.compute()
    paths = plot(tmp_path, figures, nuclei)
    names = ["per_class", "precision_recall_boxes", "precision_recall_instances"]
    assert [path.stem for path in paths] == names
    for path in paths:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10  # not blank

    only = replace(figures, boxes=None, instances=None)
    assert [path.stem for path in plot(tmp_path, only, nuclei)] == ["per_class"]


def test_nothing_counted_is_drawn_as_nothing(nuclei: GroundTruth, tmp_path: Path) -> None:
    assert len(plot(tmp_path, Tally(nuclei, TASKS).compute(), nuclei)) == 3


def test_without_matplotlib_the_extra_is_named(
    nuclei: GroundTruth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotsMissing, match=r"pip install 'panodetr\[plots\]'"):
        plot(tmp_path, Tally(nuclei, ["boxes"]).compute(), nuclei)
    assert list(tmp_path.iterdir()) == []
