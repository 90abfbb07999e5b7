from __future__ import annotations

import json
from pathlib import Path

import torch

from panodetr.checkpoints.published import (
    PUBLISHED,
    bundled,
    categories_by_count,
    coco_detection,
    coco_panoptic,
    find_published,
)
from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.model.build import build
from panodetr.model.config import DetrConfig, EomtConfig


def test_the_catalogue_has_whole_models_found_by_id_and_by_file() -> None:
    names = [model.hub_id for model in PUBLISHED]
    assert len(set(names)) == len(names) == 22
    makers = [name.partition("/")[0] for name in names]
    assert [makers.count(maker) for maker in ("facebook", "microsoft", "tue-mps")] == [7, 3, 12]
    assert {model.licence for model in PUBLISHED} == {"Apache-2.0", "MIT", "see the card"}
    for model in PUBLISHED:
        with torch.device("meta"):
            state = build(model.architecture).state_dict()
        assert model.size == sum(4 * tensor.numel() for tensor in state.values())
        if isinstance(model.architecture, EomtConfig):
            side = model.architecture.backbone.grid * 16
            assert str(side) in model.hub_id
            assert model.preprocessing.multiple == side
            continue
        assert isinstance(model.architecture, DetrConfig)
        assert model.architecture.backbone.dilate_last == ("dc5" in model.hub_id)
        assert model.architecture.masks == ("panoptic" in model.hub_id) == ("pq" in model.figures)
    found = find_published("facebook/detr-resnet-101-panoptic")
    assert found is not None
    assert found.figures["pq"] == 45.1
    assert find_published("detr-r101-panoptic-40021d53.pth") is found
    assert find_published("detr-resnet-101-panoptic") is None


def test_cocos_categories_are_the_data_sets_own(shared_data: Path) -> None:
    listed = json.loads((shared_data / "coco-panoptic" / "panoptic.json").read_text())["categories"]
    expected = {(c["id"], c["name"], bool(c["isthing"]), tuple(c["color"])) for c in listed}
    assert {(c.id, c.name, c.is_thing, c.color) for c in coco_panoptic()} == expected
    assert all(category.index == category.id for category in coco_panoptic())
    ids = [category.id for category in coco_detection()]
    assert (len(ids), ids[0], ids[-1]) == (80, 1, 90)
    # Classes without names are named by their number.
    for count, first, named in ((91, "person", 80), (250, "person", 133), (7, "class 0", 7)):
        categories = categories_by_count(count)
        assert (categories[0].name, len(categories)) == (first, named)


def test_a_folder_with_a_configuration_is_a_bundled_model(
    tmp_path: Path, tiny_spec: ModelSpec
) -> None:
    for name in ("nuclei", "cells"):
        save_checkpoint(tmp_path / name, tiny_spec, {})
    (tmp_path / "notes").mkdir()
    assert bundled(tmp_path) == {name: tmp_path / name for name in ("cells", "nuclei")}
