from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from panodetr.checkpoints.load import load_checkpoint, load_spec
from panodetr.checkpoints.published import bundled
from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.model.detr import Detr

from .conftest import Program


def test_models_are_listed_with_their_figures_licence_and_size(panodetr: Program) -> None:
    heading, *rows = panodetr("models").stdout.splitlines()
    assert heading.split()[:5] == ["model", "where", "task", "size", "licence"]
    assert {"nuclei", *bundled(), "facebook/detr-resnet-50"} <= {row.split()[0] for row in rows}
    assert all(" MB " in row for row in rows)
    listed = {one["name"]: one for one in json.loads(panodetr("models", "--json").stdout)}
    assert listed["facebook/detr-resnet-101-panoptic"]["figures"]["pq"] == 45.1
    assert listed["nuclei"]["where"] == "bundled"
    assert panodetr("models", "--quiet").stdout == ""


def test_a_model_goes_to_transformers_and_back(
    panodetr: Program, tiny_model: Path, tmp_path: Path
) -> None:
    there = panodetr("convert", tiny_model, "theirs", "--to", "huggingface")
    assert there.returncode == 0, there.stderr
    assert "3 classes, 5 queries, masks: yes" in there.stdout
    back = panodetr("convert", "theirs", "ours")
    assert back.returncode == 0, back.stderr
    assert "theirs: " in back.stdout
    before, after = load_checkpoint(tiny_model)[1], load_checkpoint(tmp_path / "ours")[1]
    state = before.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in after.state_dict().items())
    assert load_spec(tmp_path / "ours").categories == load_spec(tiny_model).categories
    (tmp_path / "names.txt").write_text("N/A\nbolt\nnut\n")
    named = panodetr("convert", "theirs", "named", "--names", "names.txt")
    assert named.returncode == 0, named.stderr
    assert [c.name for c in load_spec(tmp_path / "named").categories] == ["bolt", "nut"]


def test_an_exported_file_segments_images(
    panodetr: Program, tmp_path: Path, tiny_folder: Path, images: Path
) -> None:
    done = panodetr("export", tiny_folder, "--format", "openvino", "--out", "tiny.ov")
    assert done.returncode == 0, done.stderr
    assert "tiny for openvino, float32" in done.stdout
    assert "largest differences from the model: logits" in done.stdout
    assert done.stdout.endswith("try it: panodetr segment IMAGE --model tiny.ov\n")
    done = panodetr("segment", images / "a.png", "--model", "tiny.ov", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_an_exported_model_of_boxes_is_tried_with_detect(
    panodetr: Program, tmp_path: Path, tiny_spec: ModelSpec
) -> None:
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, masks=False))
    save_checkpoint(tmp_path / "boxes", spec, Detr(spec.architecture).state_dict())
    done = panodetr("export", "boxes", "--format", "openvino", "--out", "boxes.ov")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("try it: panodetr detect IMAGE --model boxes.ov\n")


def test_arguments_that_contradict_each_other_are_refused(
    panodetr: Program, tiny_openvino: Path, images: Path
) -> None:
    done = panodetr("segment", images, "--model", tiny_openvino, "--runtime", "onnx")
    assert done.returncode == 2
    assert "was exported for openvino" in done.stderr
    done = panodetr("export", "nuclei", "--format", "openvino", "--out", "x", "--int8")
    assert done.returncode == 2
    assert "--calibration FOLDER belong together" in done.stderr
