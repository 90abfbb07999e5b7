from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from panodetr.errors import UsageError
from panodetr.training.settings import list_fields, override


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
            raise ValueError(
                f"inner.rate is {self.inner.rate}; expected most, {self.most}, or less"
            )


def test_fields_and_fields_of_fields_change() -> None:
    changed = override(Outer(), ["steps=7", "inner.rate=2", "flip=false", "name=b", "side=3"])
    assert changed == Outer(steps=7, inner=Inner(rate=2), flip=False, name="b", side=3)


def test_nothing_changes_without_changes() -> None:
    assert override(Outer(), []) == Outer()


def test_values_are_of_the_fields_type_not_of_the_old_values() -> None:
    changes = ["start=2024", "sides=[3,4,5]", "kind=b", "side=4", "inner.rate=1e-4"]
    changed = override(Outer(), changes)
    expected = Outer(start="2024", sides=(3, 4, 5), kind="b", side=4, inner=Inner(rate=1e-4))
    assert changed == expected
    assert override(changed, ["start=null", "side=null"]).start is None


@pytest.mark.parametrize(
    "changes", list(itertools.permutations(["least=7", "most=9", "inner.rate=8"]))
)
def test_values_that_go_together_are_given_in_any_order(changes: tuple[str, ...]) -> None:
    assert override(Outer(), changes) == Outer(least=7, most=9, inner=Inner(rate=8))


@pytest.mark.parametrize("changes", list(itertools.permutations(["steps=9", "least=7", "most=6"])))
def test_values_that_do_not_go_together_are_named(changes: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="least is 7 and most 6; expected least <= most") as caught:
        override(Outer(), changes)
    blamed = str(caught.value).partition(": ")[0]
    assert sorted(blamed.split(", ")) == ["'least=7'", "'most=6'"]


def test_of_two_changes_of_a_field_the_later_one_counts() -> None:
    assert override(Outer(), ["least=7", "steps=2", "least=3", "steps=4"]) == Outer(
        least=3, steps=4
    )


def test_every_field_is_listed_as_it_is_set() -> None:
    config = Outer(inner=Inner(rate=2.5), sides=(7,))
    listed = dict(list_fields(config))
    assert listed["inner.rate"] == 2.5
    changes = [f"{name}={json.dumps(value)}" for name, value in listed.items()]
    assert override(Outer(), changes) == config


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
