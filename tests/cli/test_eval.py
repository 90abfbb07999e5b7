from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two photos of noise, each with one nucleus on background."""
    folder = tmp_path / "data"
    for sub in ("val", "panoptic_val"):
        (folder / sub).mkdir(parents=True)
    noise = np.random.default_rng(0)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in (1, 2):
        ids = np.ones((64, 64), np.uint8)
        ids[10:30, 20:40] = 2
        photo = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(photo).save(folder / "val" / f"{number}.png")
        Image.fromarray(np.stack([ids, ids * 0, ids * 0], axis=-1)).save(
            folder / "panoptic_val" / f"{number}.png"
        )
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
        segments = [
            {
                "id": 1,
                "category_id": 9,
                "area": 64 * 64 - 400,
                "bbox": [0, 0, 64, 64],
                "iscrowd": 0,
            },
            {"id": 2, "category_id": 7, "area": 400, "bbox": [20, 10, 20, 20], "iscrowd": 0},
        ]
        annotations.append(
            {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
        )
    categories = [
        {"id": 7, "name": "nucleus", "isthing": 1, "color": [220, 20, 60]},
        {"id": 9, "name": "background", "isthing": 0, "color": [0, 0, 0]},
    ]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic_val.json").write_text(json.dumps(document))
    return folder


def test_the_table_shows_what_the_file_holds(
    panodetr: Program, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    done = panodetr("eval", "--model", tiny_model, "--data", data, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["classes"] == ["PQ", "SQ", "RQ", "F1"]
    for name, suffix in (("all", ""), ("things", "_things"), ("stuff", "_stuff")):
        expected = [f"{metrics[key + suffix]:.3f}" for key in ("pq", "sq", "rq", "f1")]
        assert rows[name] == expected
    assert metrics["images"] == 2


def test_a_split_that_is_not_there_is_one_line(
    panodetr: Program, tiny_model: Path, data: Path
) -> None:
    done = panodetr(
        "eval", "--model", tiny_model, "--data", data, "--split", "tset", "--out", "out"
    )
    assert done.returncode == 1
    assert "panoptic_tset.json is missing" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_of_other_classes_is_one_line(
    panodetr: Program, tiny_model: Path, data: Path
) -> None:
    file = data / "panoptic_val.json"
    file.write_text(file.read_text().replace('"nucleus"', '"cat"'))
    done = panodetr("eval", "--model", tiny_model, "--data", data, "--out", "out")
    assert done.returncode == 1
    assert "'nucleus' in the model and 'cat' in" in done.stderr
