"""From `--set` to a configuration."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from panodetr.errors import UsageError
from panodetr.results.types import Category
from panodetr.training.recipes import RECIPES, RecipeData
from panodetr.training.settings import (
    configure,
    list_fields,
    override,
    recipe_arguments,
)

DATA = RecipeData(
    categories=(Category(index=0, id=4, name="nut", is_thing=True, color=(255, 0, 0)),),
    images=100,
    masks=True,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int = 5
    name: str = "a"
    flip: bool = True
    side: int | None = None
    start: str | None = None
    kind: Literal["a", "b"] = "a"
    sides: tuple[int, ...] = (1, 2)
    least: int = 1
    most: int = 4
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected at least 1")
        if self.least > self.most:
            raise ValueError(f"least is {self.least} and most {self.most}; expected least <= most")
        if self.inner.rate > self.most:
            raise ValueError(f"inner.rate is {self.inner.rate}; expected most, {self.most}")


def test_fields_and_fields_of_fields_change_to_values_of_their_own_type() -> None:
    assert override(Outer(), []) == Outer()
    changes = ["steps=7", "inner.rate=1e-4", "flip=false", "name=b", "side=3", "start=2024"]
    changed = override(Outer(), [*changes, "sides=[3,4,5]", "kind=b", "steps=8"])  # the later one
    assert changed == Outer(
        steps=8, inner=Inner(rate=1e-4), flip=False, name="b", side=3, start="2024",
        sides=(3, 4, 5), kind="b",
    )  # fmt: skip
    assert override(changed, ["start=null", "side=null"]).start is None
    listed = dict(list_fields(changed))
    assert listed["inner.rate"] == 1e-4
    again = [f"{name}={json.dumps(value)}" for name, value in listed.items()]
    assert override(Outer(), again) == changed


def test_values_that_go_together_are_given_in_any_order_and_named_where_they_do_not() -> None:
    for changes in itertools.permutations(["least=7", "most=9", "inner.rate=8"]):
        assert override(Outer(), changes) == Outer(least=7, most=9, inner=Inner(rate=8))
    for changes in itertools.permutations(["steps=9", "least=7", "most=6"]):
        with pytest.raises(UsageError, match="least is 7 and most 6; expected least <=") as caught:
            override(Outer(), changes)
        blamed = str(caught.value).partition(": ")[0]
        assert sorted(blamed.split(", ")) == ["'least=7'", "'most=6'"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("steps", "expected field=value"),
        ("stpes=3", "near ones are steps"),
        ("inner=3", "rate"),
        ("steps.x=3", "no fields of its own"),
        ("steps=many", "expected int, got str"),
        ("steps=true", "expected int, got bool"),
        ("steps=1.5", "expected int, got float"),
        ("flip=1", "expected bool, got int"),
        ("side=wide", "expected int . null, got str"),
        ("kind=c", "expected one of 'a', 'b'"),
        ("sides=3", "expected array, got int"),
        ("sides=[1,x]", "expected array, got str"),
        ("inner.rate=NaN", "expected float, got str"),
        ("steps=0", "expected at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        override(Outer(), [change])
    assert change in str(caught.value)
    assert "\n" not in str(caught.value)


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
        ("validate_epochs=-1", "validate_epochs=-1': expected int >= 0"),
        ("batch_size=null", "expected int"),
        ("epochs", "expected field=value"),
        ("frozen_stages=7", "expected int <= 4"),
        ("augmentation.crop=2", "augmentation.crop=2.*expected float <= 1"),
        ("backbone=vgg", "expected one of resnet50, resnet50-dc5"),
    ],
)
def test_a_recipe_refuses_what_cannot_be_meant(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        configure("coco-detection", DATA, [change])
    assert "\n" not in str(caught.value)


def test_arguments_are_what_steps_and_shapes_follow_from() -> None:
    finetune = {"start": None, "epochs": 50, "validate_epochs": 5, "batch_size": 4}
    assert recipe_arguments(RECIPES["finetune"]) == {
        **finetune,
        "short_side": None,
        "class_map": None,
    }
    assert recipe_arguments(RECIPES["nuclei"]) == {}
    assert "backbone" in recipe_arguments(RECIPES["coco-detection"])
