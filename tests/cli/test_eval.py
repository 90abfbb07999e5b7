from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from .conftest import Program


@pytest.fixture
def evaluated(panodetr: Program, tiny_model: Path, data: Path, tmp_path: Path) -> Path:
    """The folder of a finished evaluation of all tasks."""
    out = tmp_path / "evaluated"
    tasks = ("--task", "boxes,instances,panoptic")
    done = panodetr("eval", "--model", tiny_model, "--data", data, *tasks, "--out", out)
    assert done.returncode == 0, done.stderr
    (out / "stdout.txt").write_text(done.stdout)
    return out


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_the_tables_show_what_the_file_holds(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text())
    shown = rows((evaluated / "stdout.txt").read_text())
    for name, suffix in (("all", ""), ("things", "_things"), ("stuff", "_stuff")):
        expected = [f"{100 * metrics[key + suffix]:.1f}" for key in ("pq", "sq", "rq", "f1")]
        assert shown[name] == expected
    for name, key in (("AP75", "ap75"), ("AP50", "ap50")):
        expected = [f"{100 * metrics[task][key]:.1f}" for task in ("boxes", "instances")]
        assert shown[name] == expected
    assert shown["nucleus"][0] == "2"
    assert metrics["images"] == 2
    assert metrics["seconds_per_image"] > 0
    twelve = [value for key, value in metrics["boxes"].items() if key != "per_class"]
    assert len(twelve) == 12
    assert metrics["boxes"]["ap_large"] is None  # no nucleus is that large


def test_everything_is_written(evaluated: Path) -> None:
    names = {path.name for path in evaluated.iterdir()} - {"stdout.txt"}
    assert names == {
        "metrics.json",
        "boxes.json",
        "instances.json",
        "panoptic.json",
        "panoptic",
        "per_class.png",
        "precision_recall_boxes.png",
        "precision_recall_instances.png",
    }
    for path in evaluated.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width > 300


def test_what_was_written_scores_the_same(
    panodetr: Program, evaluated: Path, data: Path, tmp_path: Path
) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text())
    objects = tmp_path / "instances.json"
    objects.write_text(json.dumps(instance_truth()))
    truths = {"boxes": objects, "instances": objects, "panoptic": data / "panoptic_val.json"}
    for kind, truth in truths.items():
        file, again = evaluated / f"{kind}.json", tmp_path / "again"
        done = panodetr("eval", "--predictions", file, "--truth", truth, "--out", again)
        assert done.returncode == 0, done.stderr
        scored = json.loads((again / "metrics.json").read_text())
        assert scored["images"] == 2
        key = "per_class" if kind == "panoptic" else kind
        assert scored[key] == metrics[key]


def instance_truth() -> dict[str, object]:
    """The nuclei of `data` as COCO writes objects."""
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 64, "width": 64} for n in (1, 2)],
        "annotations": [
            {
                "id": n,
                "image_id": n,
                "category_id": 7,
                "bbox": [20, 10, 20, 20],
                "area": 400,
                "iscrowd": 0,
                "segmentation": [[20, 10, 40, 10, 40, 30, 20, 30]],
            }
            for n in (1, 2)
        ],
        "categories": [{"id": 7, "name": "nucleus"}],
    }


def test_only_the_tasks_that_are_asked_for(
    panodetr: Program, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = panodetr("eval", "--model", tiny_model, "--data", data, "--task", "boxes", "--out", out)
    assert done.returncode == 0, done.stderr
    assert set(json.loads((out / "metrics.json").read_text())) == {
        "images",
        "seconds_per_image",
        "boxes",
    }
    assert not (out / "instances.json").exists()


def test_tiles_change_the_answer(
    panodetr: Program, tiny_model: Path, data: Path, tmp_path: Path, evaluated: Path
) -> None:
    out = tmp_path / "tiled"
    tiles = ("--tiles", "32", "--overlap", "0.5", "--task", "boxes")
    done = panodetr("eval", "--model", tiny_model, "--data", data, *tiles, "--out", out)
    assert done.returncode == 0, done.stderr
    whole = json.loads((evaluated / "boxes.json").read_text())
    found = json.loads((out / "boxes.json").read_text())
    assert [b["bbox"] for b in found] != [b["bbox"] for b in whole]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected --data FOLDER, or --predictions FILE with --ground-truth FILE"),
        (("--data", "x", "--truth", "y"), "expected --data FOLDER, or"),
        (("--predictions", "x"), "--predictions and --ground-truth go together"),
        (("--predictions", "x", "--truth", "y", "--tiles", "9"), "--tiles is for --data"),
    ],
)
def test_options_that_cannot_be_meant(
    panodetr: Program, arguments: tuple[str, ...], message: str
) -> None:
    done = panodetr("eval", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "boxes,masks"), "--task has 'masks'; expected boxes, instances, panoptic"),
        (("--overlap", "0.5"), "--overlap is for --tiles"),
        (("--tiles", "64", "--overlap", "1"), "tiles of 64 pixels cannot overlap by 64"),
    ],
)
def test_options_that_a_model_cannot_follow(
    panodetr: Program, tiny_model: Path, data: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = panodetr("eval", "--model", tiny_model, "--data", data, *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_missing_images_are_left_out_where_that_is_allowed(
    panodetr: Program, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    (data / "val" / "2.png").unlink()
    common = ("eval", "--model", tiny_model, "--data", data, "--task", "boxes", "--out", "out")
    done = panodetr(*common)
    assert done.returncode == 1
    assert "1 of 2 images are missing, first " in done.stderr
    assert done.stderr.count("\n") == 1
    done = panodetr(*common, "--allow-missing")
    assert done.returncode == 0, done.stderr
    assert "1 images are missing and were left out" in done.stdout
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["images"] == 1


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
