from __future__ import annotations

from pathlib import Path

import pytest

from panodetr.errors import UsageError
from panodetr.results.types import Category
from panodetr.training.recipes import RECIPES, RecipeData
from panodetr.training.settings import configure, preferred_format, recipe_arguments

DATA = RecipeData(
    categories=(Category(index=0, id=4, name="nut", is_thing=True, color=(255, 0, 0)),),
    images=100,
    masks=True,
)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_changed(name: str) -> None:
    start = ["start=nuclei"] if name == "finetune" else []
    config = configure(name, DATA, [*start, "clip=0.5", "criterion.giou=1"])
    assert (config.clip, config.criterion.giou) == (0.5, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epoch=3", "near ones are epochs"),
        ("epochs=many", "expected int"),
        ("epochs=0", "expected int >= 1"),
        ("batch_size=null", "expected int"),
        ("batch_size=-1", "expected int >= 1"),
        ("epochs", "expected field=value"),
        ("frozen_stages=7", "expected int <= 4"),
        ("augmentation.crop=2", "augmentation.crop=2.*expected float <= 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        configure("coco-detection", DATA, [change])
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no recipe 'coco'; the recipes are coco-detection"):
        configure("coco", DATA)


def test_arguments_are_what_steps_and_shapes_follow_from() -> None:
    assert recipe_arguments(RECIPES["finetune"]) == {
        "start": None,
        "epochs": 50,
        "validate_epochs": 5,
        "batch_size": 4,
        "short_side": None,
    }
    assert recipe_arguments(RECIPES["nuclei"]) == {}


def test_detectors_read_instances_where_a_folder_has_both(shared_data: Path) -> None:
    instances = shared_data / "coco-instances"
    assert preferred_format("coco-detection", instances) == "coco-instances"
    assert preferred_format("coco-panoptic-boxes", instances) is None
    assert preferred_format("coco-detection", shared_data / "coco-panoptic") is None


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("nuclei", ("accumulate=16", "batch_size=32")),
        ("nuclei", ("spec.preprocessing.tile=64", "spec.preprocessing.tile_overlap=16")),
        ("coco-detection", ("augmentation.least_crop=700", "augmentation.most_crop=900")),
    ],
)
def test_the_order_of_changes_does_not_matter(recipe: str, changes: tuple[str, str]) -> None:
    assert configure(recipe, DATA, changes) == configure(recipe, DATA, changes[::-1])
