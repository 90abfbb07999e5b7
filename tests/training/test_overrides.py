from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from panodetr.errors import UsageError
from panodetr.training.overrides import override


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int = 5
    name: str = "a"
    flip: bool = True
    side: int | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected at least 1")


def test_fields_and_fields_of_fields_change() -> None:
    changed = override(Outer(), ["steps=7", "inner.rate=2", "flip=false", "name=b", "side=3"])
    assert changed == Outer(steps=7, inner=Inner(rate=2), flip=False, name="b", side=3)


def test_nothing_changes_without_changes() -> None:
    assert override(Outer(), []) == Outer()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("steps", "expected field=value"),
        ("stpes=3", "near ones are steps"),
        ("inner=3", "rate"),
        ("steps.x=3", "no fields of its own"),
        ("steps=many", "expected a value like 5"),
        ("steps=true", "expected a value like 5"),
        ("steps=1.5", "expected a value like 5"),
        ("flip=1", "expected a value like True"),
        ("steps=0", "expected at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        override(Outer(), [change])
    assert change in str(caught.value)
    assert "\n" not in str(caught.value)
