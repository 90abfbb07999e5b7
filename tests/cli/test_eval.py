from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from .conftest import Program


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_tables_files_and_scores_of_the_files_are_the_same(
    panodetr: Program, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "evaluated"
    common = ("eval", "--model", tiny_model, "--data", data)
    done = panodetr(*common, "--task", "boxes,instances,panoptic", "--out", out)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    shown = rows(done.stdout)
    for name, suffix in (("all", ""), ("things", "_things"), ("stuff", "_stuff")):
        expected = [f"{100 * metrics[key + suffix]:.1f}" for key in ("pq", "sq", "rq", "f1")]
        assert shown[name] == expected
    for name, key in (("AP75", "ap75"), ("AP50", "ap50")):
        expected = [f"{100 * metrics[task][key]:.1f}" for task in ("boxes", "instances")]
        assert shown[name] == expected
    assert shown["nucleus"][0] == "2"
    assert metrics["images"] == 2
    assert metrics["seconds_per_image"] > 0
    assert len(metrics["boxes"]) == 12 + 1
    assert metrics["boxes"]["ap_large"] is None  # no nucleus is that large

    pictures = {"per_class.png", "precision_recall_boxes.png", "precision_recall_instances.png"}
    files = {"metrics.json", "boxes.json", "instances.json", "panoptic.json", "panoptic"}
    assert {path.name for path in out.iterdir()} == files | pictures
    for name in pictures:
        with Image.open(out / name) as picture:
            assert picture.width > 300

    objects = tmp_path / "instances.json"
    objects.write_text(json.dumps(instance_truth()))
    truths = {"boxes": objects, "instances": objects, "panoptic": data / "panoptic_val.json"}
    for kind, truth in truths.items():
        file, again = out / f"{kind}.json", tmp_path / "again"
        done = panodetr("eval", "--predictions", file, "--truth", truth, "--out", again)
        assert done.returncode == 0, done.stderr
        scored = json.loads((again / "metrics.json").read_text())
        assert scored["images"] == 2
        key = "per_class" if kind == "panoptic" else kind
        assert scored[key] == metrics[key]

    tiled = tmp_path / "tiled"
    tiles = ("--tiles", "32", "--overlap", "0.5", "--task", "boxes")
    done = panodetr(*common, *tiles, "--out", tiled)
    assert done.returncode == 0, done.stderr
    assert (tiled / "boxes.json").read_text() != (out / "boxes.json").read_text()


def instance_truth() -> dict[str, object]:
    """The nuclei of `data` as COCO writes objects."""
    box = {"category_id": 7, "bbox": [20, 10, 20, 20], "area": 400, "iscrowd": 0}
    box |= {"segmentation": [[20, 10, 40, 10, 40, 30, 20, 30]]}
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 64, "width": 64} for n in (1, 2)],
        "annotations": [{"id": n, "image_id": n, **box} for n in (1, 2)],
        "categories": [{"id": 7, "name": "nucleus"}],
    }


def test_only_the_tasks_that_are_asked_for_and_no_plots_without_matplotlib(
    panodetr: Program, tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = panodetr("eval", "--model", tiny_model, "--data", data, "--task", "boxes", "--out", out)
    assert done.returncode == 0, done.stderr
    assert set(json.loads((out / "metrics.json").read_text())) == {
        "images",
        "seconds_per_image",
        "boxes",
    }
    assert {path.name for path in out.iterdir()} == {"metrics.json", "boxes.json"}
    assert "pip install 'panodetr[plots]'" in done.stderr


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


def test_an_unknown_task_is_refused(panodetr: Program, tiny_model: Path, data: Path) -> None:
    done = panodetr("eval", "--model", tiny_model, "--data", data, "--task", "boxes,masks")
    assert done.returncode == 2
    assert "--task has 'masks'; expected boxes, instances, panoptic" in done.stderr


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


def test_another_split_or_other_classes_are_one_line(
    panodetr: Program, tiny_model: Path, data: Path
) -> None:
    common = ("eval", "--model", tiny_model, "--data", data, "--out", "out")
    file = data / "panoptic_val.json"
    file.write_text(file.read_text().replace('"nucleus"', '"cat"'))
    for more, message in (
        (("--split", "tset"), "there is no split 'tset'; it has val"),
        ((), "'nucleus' in the model and 'cat' in"),
    ):
        done = panodetr(*common, *more)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_more_objects_than_results_that_count_are_told_and_may_all_count(
    panodetr: Program, shared_data: Path
) -> None:
    """Right figures are pycocotools'."""
    case = shared_data / "quirks" / "cases" / "E3" / "input"
    common = ("eval", "--predictions", case / "results.json", "--ground-truth", case / "truth.json")
    done = panodetr(*common, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "1 images have more than 100 objects of a class" in done.stdout
    figures = json.loads(Path("out/metrics.json").read_text())
    assert figures["boxes"]["ap"] == pytest.approx(0.6634, abs=1e-4)
    done = panodetr(*common, "--out", "more", "--max-detections", "150")
    assert "more than" not in done.stdout
    assert json.loads(Path("more/metrics.json").read_text())["boxes"]["ap"] == 1
