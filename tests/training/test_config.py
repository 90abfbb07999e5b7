"""From `--set` to a configuration."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from panodetr.data.augment import CropAugmentation
from panodetr.errors import UsageError
from panodetr.results.types import Category
from panodetr.training.config import TrainConfig, list_fields, override
from panodetr.training.recipes import RecipeData, configure

DATA = RecipeData(
    categories=(Category(index=0, id=4, name="nut", is_thing=True, color=(255, 0, 0)),),
    images=100,
    masks=True,
)


def test_fields_and_fields_of_fields_change_to_values_of_their_own_type(
    tiny_run: TrainConfig,
) -> None:
    assert override(tiny_run, []) == tiny_run
    changes = ["steps=7", "criterion.giou=1e-4", "validate_start=false", "start=2024", "ema=0"]
    changes += ["spec.preprocessing.tile=3", "spec.preprocessing.mean=[1,2,3]", "sampling=buckets"]
    changed = override(tiny_run, [*changes, "steps=8"])  # the later one
    rule = replace(tiny_run.spec.preprocessing, tile=3, mean=(1, 2, 3))
    assert changed == replace(
        tiny_run, steps=8, criterion=replace(tiny_run.criterion, giou=1e-4), validate_start=False,
        start="2024", sampling="buckets", spec=replace(tiny_run.spec, preprocessing=rule),
    )  # fmt: skip
    assert override(changed, ["start=null", "spec.preprocessing.tile=null"]).start is None
    listed = dict(list_fields(changed))
    assert listed["criterion.giou"] == 1e-4
    del listed["spec.categories"]
    again = [f"{name}={json.dumps(value)}" for name, value in listed.items()]
    assert override(changed, again) == changed


def test_values_that_go_together_are_given_in_any_order_and_named_where_they_do_not(
    tiny_run: TrainConfig,
) -> None:
    assert isinstance(tiny_run.augmentation, CropAugmentation)
    least, most = "augmentation.least_scale=7", "augmentation.most_scale="
    for changes in itertools.permutations([least, most + "9", "augmentation.size=8"]):
        expected = replace(tiny_run.augmentation, least_scale=7, most_scale=9, size=8)
        assert override(tiny_run, changes).augmentation == expected
    for changes in itertools.permutations(["augmentation.size=9", least, most + "6"]):
        with pytest.raises(UsageError, match=r"scale is 7\.0 to 6\.0; expected least_") as caught:
            override(tiny_run, changes)
        assert "size=9" not in str(caught.value)
    for changes in itertools.permutations(["steps=9", "accumulate=7", "batch_size=6"]):
        with pytest.raises(UsageError, match="accumulate is 7 and batch_size 6") as caught:
            override(tiny_run, changes)
        blamed = str(caught.value).partition(": ")[0]
        assert sorted(blamed.split(", ")) == ["'accumulate=7'", "'batch_size=6'"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("epochs", "expected field=value"),
        ("stpes=3", "near ones are steps"),
        ("epoch=3", "near ones are epochs"),
        ("criterion=3", "costs, label"),
        ("steps.x=3", "no fields of its own"),
        ("steps=many", "expected int, got str"),
        ("steps=true", "expected int, got bool"),
        ("steps=1.5", "expected int, got float"),
        ("steps=0", "expected int >= 1"),
        ("wandb=1", "expected bool, got int"),
        ("spec.preprocessing.tile=wide", "expected int . null, got str"),
        ("sampling=c", "expected one of 'area', 'epochs', 'buckets'"),
        ("augmentation.short_sides=3", "expected array, got int"),
        ("augmentation.short_sides=[1,x]", "expected array, got str"),
        ("augmentation.crop=2", "augmentation.crop=2.*expected float <= 1"),
        ("criterion.giou=NaN", "expected float, got str"),
        ("frozen_stages=7", "expected int <= 4"),
        ("epochs=many", "expected int"),
        ("epochs=0", "expected int >= 1"),
        ("validate_epochs=-1", "validate_epochs=-1': expected int >= 0"),
        ("batch_size=null", "expected int"),
        ("backbone=vgg", "expected one of resnet50, resnet50-dc5"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        configure("coco-detection", DATA, [change])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_objects": 0}, "mask_objects is 0; expected int >= 1"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; expected float > 0"),
        ({"clip": float("nan")}, "clip is nan; expected float > 0"),
        ({"token_weight": -1.0}, r"token_weight is -1\.0; expected float >= 0"),
        ({"seed": -1}, "seed is -1; expected int >= 0"),
        ({"ema": 1.0}, "ema is 1.0; expected float < 1"),
        ({"learned": "heads"}, "learned is 'heads'; invalid enum value"),
        ({"precision": "float16"}, "precision is 'float16'; invalid enum value"),
        ({"learned": "masks"}, "expected 0 where the mask head alone learns"),
    ],
)
def test_impossible_configurations_are_refused(
    tiny_run: TrainConfig, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny_run, **change)  # pyright: ignore[reportArgumentType]
