"""Fine-tuning as a user does it: the bundled model on images of other classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import panodetr as library
from panodetr.checkpoints.load import load_checkpoint
from panodetr.results.types import Category

from .conftest import Program

pytestmark = pytest.mark.slow


@pytest.fixture
def cells(shared_data: Path, tmp_path: Path) -> Path:
    """Eight small images of nuclei to learn from, which are called cells, and two more."""
    source = shared_data / "nuclei"
    document = json.loads((source / "panoptic_val.json").read_text())
    small = [image for image in document["images"] if image["height"] * image["width"] < 70_000]
    categories = [
        c | {"name": c["name"].replace("nucleus", "cell")} for c in document["categories"]
    ]
    folder = tmp_path / "cells"
    for split, images in (("train", small[:8]), ("val", small[8:10])):
        ids = {image["id"] for image in images}
        annotations = [a for a in document["annotations"] if a["image_id"] in ids]
        for kind, files in (("", images), ("panoptic_", annotations)):
            (folder / f"{kind}{split}").mkdir(parents=True)
            for one in files:
                name = one["file_name"]
                shutil.copy(source / f"{kind}val" / name, folder / f"{kind}{split}" / name)
        part = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"panoptic_{split}.json").write_text(json.dumps(part))
    return folder


def head(checkpoint: Path | str) -> tuple[dict[str, Category], Tensor, Tensor]:
    spec, model = load_checkpoint(str(checkpoint))
    weights = model.state_dict()
    by_name = {category.name: category for category in spec.categories}
    return by_name, weights["class_head.weight"], weights["queries.weight"]


def test_the_bundled_model_goes_on_with_other_classes_and_more_queries(
    program: Program, cells: Path, tmp_path: Path
) -> None:
    before, rows_before, queries_before = head("nuclei")
    queries = len(queries_before) + 8
    changes = (
        "start=nuclei", f"spec.architecture.num_queries={queries}", "batch_size=2", "steps=4",
        "validate_every=2", "log_every=1", "warmup=0", "decay=0",
        "learning_rate=1e-7", "backbone_learning_rate=1e-7",
    )  # fmt: skip
    words = [word for change in changes for word in ("--set", change)]
    done = program("train", "finetune", "--data", cells, *words)
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert told[0].startswith("nuclei knows no such objects; kept of it are tiles of 128 pixels")
    assert told[1] == "from nuclei"
    assert "class_head: 1 of 2 classes copied by name (background), 1 initialised (cell)" in told
    assert f"queries: {queries - 8} copied, 8 more begin as copies with noise" in told
    steps = [line.split()[1] for line in told if line.startswith("step ")]
    assert steps == ["0/4", "1/4", "2/4", "2/4", "3/4", "4/4", "4/4"]
    assert sum("validation: thing PQ 0." in line and "mask AP 0." in line for line in told) == 3

    run = tmp_path / "runs" / "train" / "finetune"
    after, rows, learned = head(run / "model")
    assert set(after) == {"cell", "background"}
    # At such a rate four steps change next to nothing: what is left is what was copied.
    for name, other in (("background", "background"), ("cell", "nucleus")):
        row, old = rows[after[name].index], rows_before[before[other].index]
        assert torch.allclose(row, old, atol=1e-5) == (name == other), name
    assert torch.allclose(rows[-1], rows_before[-1], atol=1e-5)  # "no object"
    assert learned.shape[0] == queries
    assert torch.allclose(learned[: queries - 8], queries_before, atol=1e-5)
    assert not torch.equal(learned[: queries - 8], queries_before)

    image = next((cells / "val").iterdir())
    result = library.load(run / "best").segment(image, threshold=0.1)
    assert "background" in {segment.label for segment in result.segments}
    assert [category.name for category in result.categories] == list(after)
    done = program("segment", image, "--model", run / "best", "--json")
    assert done.returncode == 0, done.stderr
