from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.table import Table
from tests.evaluation.conftest import box

from panodetr.checkpoints.load import load_spec
from panodetr.checkpoints.published import find_published
from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.cli.eval import average_precision, panoptic_quality, per_class, plot
from panodetr.data.formats import things
from panodetr.data.masks import encode_pixels
from panodetr.data.samples import InstanceImage
from panodetr.evaluation.average_precision import TWELVE, ObjectResult
from panodetr.evaluation.ground_truth import TASKS, GroundTruth
from panodetr.evaluation.metrics import Counts, Figures, Prediction
from panodetr.model.detr import Detr
from panodetr.results.types import Category

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


def test_thresholds_are_stored_with_the_model_where_it_is_ones_own(
    panodetr: Program, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(tiny_model, own)
    common = ("eval", "--data", data, "--store-thresholds", "--out", tmp_path / "out")
    done = panodetr(*common, "--model", own, "--tiles", "32", "--bits", "12")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    best = metrics["instances"]["per_class"]["nucleus"]["best_threshold"]
    stored = json.loads((own / "config.json").read_text())["class_thresholds"]
    assert stored == ({} if best is None else {"nucleus": best})
    # Tiles and bits of the run are not the model's.
    assert replace(load_spec(own), class_thresholds={}) == load_spec(tiny_model)
    assert f"stored in {own / 'config.json'}" in done.stdout
    assert panodetr("segment", data / "val" / "1.png", "--model", own).returncode == 0
    done = panodetr(*common, "--model", "nuclei")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--model is 'nuclei'; panodetr convert makes such a folder" in done.stderr


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


def test_objects_that_nothing_names_are_of_the_model_s_only_kind(
    panodetr: Program, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    nucleus, background = tiny_spec.categories
    spec = replace(tiny_spec, categories=(replace(nucleus, id=1), background))
    save_checkpoint(tmp_path / "tiny", spec, Detr(spec.architecture).state_dict())
    ids = np.zeros((64, 64), np.uint8)
    ids[8:24, 8:24] = 1
    for folder, pixels in (("images", np.stack([ids] * 3, axis=2)), ("masks", ids)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "set" / folder / "a.png")
    done = panodetr("eval", "--model", "tiny", "--data", "set", "--out", "out")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(figures["boxes"]["per_class"]) == ["nucleus"]


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


SIZE = (40, 40)


@pytest.fixture
def truth() -> GroundTruth:
    """One image with one square cat, found but for a quarter."""
    objects = (box(1, 1, (0, 0, 20, 20)),)
    cat = InstanceImage(image_id=1, path=Path("1.png"), size=SIZE, objects=objects)
    return GroundTruth(
        folder=Path(),
        images=(cat,),
        segment_categories=(
            Category(index=0, id=1, name="cat [wild]", is_thing=True, color=(0, 0, 0)),
            Category(index=1, id=2, name="sky", is_thing=False, color=(0, 0, 0)),
        ),
        object_categories=things({1: "cat [wild]", 3: "dog"}),
        has_masks=True,
    )


@pytest.fixture
def figures(truth: GroundTruth) -> Figures:
    counts = Counts(truth, TASKS)
    mask = np.zeros(SIZE, np.bool_)
    mask[:20, :15] = True
    found: ObjectResult = {"image_id": 1, "category_id": 1, "score": 0.5}
    prediction = Prediction(
        boxes=[{**found, "bbox": [0, 0, 15, 20]}],
        instances=[{**found, "segmentation": encode_pixels(mask)}],
    )
    counts.update(truth.images[0], prediction)
    return counts.compute()


def cells_of(table: Table) -> dict[str, list[str]]:
    """Each row's cells, by the first one; the headings under "heading"."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    headings = [str(column.header) for column in table.columns]
    cells = {row[0]: list(row[1:]) for row in zip(*columns, strict=True)}
    return cells | {"heading": headings[1:]}


def test_twelve_rows_in_percent_beside_the_published_figures(figures: Figures) -> None:
    shown = cells_of(average_precision(figures, {}))
    assert shown.pop("heading") == ["boxes", "instances"]
    assert len(shown) == len(TWELVE) == 12
    assert shown["AP"] == ["60.0", "60.0"]  # six of ten overlaps, 0.5 to 0.75
    assert shown["AP75"] == ["100.0", "100.0"]
    assert shown["AP large"] == ["-", "-"]
    known = find_published("facebook/detr-resnet-101-panoptic")
    detector = find_published("facebook/detr-resnet-50")
    assert known is not None
    assert detector is not None
    assert figures.panoptic is not None
    shown = cells_of(average_precision(figures, known.figures))
    assert shown["heading"] == ["boxes", "published", "instances", "published"]
    assert shown["AP"] == ["60.0", "40.1", "60.0", "33.0"]
    quality = cells_of(panoptic_quality(figures.panoptic, known.figures))
    assert quality["heading"][4:] == ["published PQ", "published SQ", "published RQ"]
    assert quality["all"][4:] == ["45.1", "79.9", "55.5"]
    assert quality["stuff"][4:] == ["37.0", "78.5", "46.0"]
    # a detector's are of boxes alone
    assert cells_of(average_precision(figures, detector.figures))["AP"] == ["60.0", "42.0", "60.0"]
    assert len(cells_of(panoptic_quality(figures.panoptic, detector.figures))["all"]) == 4


def test_classes_that_occur_have_a_row(figures: Figures, truth: GroundTruth) -> None:
    shown = cells_of(per_class(figures))
    assert shown.pop("heading") == ["objects", "box AP", "box AP50", "mask AP", "mask AP50"]
    assert shown == {"cat [wild]": ["1", "60.0", "100.0", "60.0", "100.0"]}


def test_each_task_has_its_plots_where_there_are_objects(
    figures: Figures, truth: GroundTruth, tmp_path: Path
) -> None:
    paths = plot(tmp_path, figures)
    names = ["per_class", "precision_recall_boxes", "precision_recall_instances"]
    assert [path.stem for path in paths] == names
    for path in paths:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10  # not blank
    only = replace(figures, boxes=None, instances=None)
    for other in (only, Counts(truth, TASKS).compute()):
        assert [path.stem for path in plot(tmp_path, other)] == ["per_class"]
