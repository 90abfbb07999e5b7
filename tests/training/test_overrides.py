from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from panodetr.errors import UsageError
from panodetr.training.overrides import list_fields, override


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
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected at least 1")


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
        ("steps=many", "expected a whole number"),
        ("steps=true", "expected a whole number"),
        ("steps=1.5", "expected a whole number"),
        ("flip=1", "expected true or false"),
        ("side=wide", "expected a whole number"),
        ("kind=c", "expected one of 'a', 'b'"),
        ("sides=3", "expected a list"),
        ("sides=[1,x]", "expected a list"),
        ("inner.rate=nan", "expected a number"),
        ("steps=0", "expected at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        override(Outer(), [change])
    assert change in str(caught.value)
    assert "\n" not in str(caught.value)
