from __future__ import annotations

import sys

import pytest
from tests.process import python

import panodetr


def test_import_brings_neither_torch_nor_numpy() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'scipy', 'rich'} & set(sys.modules)"
    assert python("-c", f"import sys, panodetr; print({heavy})").stdout == "set()\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no module resource")
def test_import_takes_less_than_three_tenths_of_a_second() -> None:
    import resource

    def seconds(code: str) -> float:
        # Of the processor, not of the clock: other programs may be running.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python("-c", code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert seconds("import panodetr") - seconds("pass") < 0.3


def test_every_public_name_is_there_and_no_other() -> None:
    for name in panodetr.__all__:
        assert getattr(panodetr, name) is not None
    assert sorted(panodetr.__all__) == sorted(dir(panodetr))
    with pytest.raises(AttributeError, match="has no attribute 'segmment'"):
        _ = panodetr.segmment  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
