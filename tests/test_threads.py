from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from tests.process import wait_until

from panodetr import threads
from panodetr.images.preprocess import resize
from panodetr.images.read import read_image
from panodetr.results.masks import Frame, NumpyMasks
from panodetr.threads import omp_threads, pool_threads, prefetch


@pytest.mark.parametrize(
    ("told", "number"),
    [("3", 3), ("4,2", 4), (" 2 ", 2), ("", None), ("0", None), ("-1", None), ("many", None)],
)
def test_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, told: str, number: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert omp_threads() == number


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say")
def test_without_a_number_pools_take_the_cores_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def allowed(process: int) -> set[int]:
        assert process == 0
        return {3, 5}

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert omp_threads() is None
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", allowed)
    assert pool_threads() == 2


@pytest.mark.parametrize(("number", "asked"), [(1, []), (3, [3] * 4)])
def test_pools_have_the_threads_that_are_told(
    monkeypatch: pytest.MonkeyPatch, number: int, asked: list[int]
) -> None:
    started: list[int | None] = []

    def watched(count: int | None) -> ThreadPoolExecutor:
        started.append(count)
        return ThreadPoolExecutor(count)

    monkeypatch.setenv("OMP_NUM_THREADS", str(number))
    monkeypatch.setattr(threads, "ThreadPoolExecutor", watched)
    image = np.zeros((1500, 1500, 3), np.uint8)
    read_image(Image.fromarray(image))
    resize(image, (800, 800))  # rows, then columns
    NumpyMasks(np.zeros((3, 20, 20), np.float32), Frame((400, 400), (400, 400))).highest()
    assert started == asked


def test_items_are_made_ahead_in_order_and_no_more_than_asked_for() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    found = prefetch(items(), 3)
    assert next(found) == 0
    wait_until(lambda: len(made) == 1 + 3 + 1)  # given, waiting, in the maker's hand
    assert list(found) == list(range(1, 100))


def test_an_error_comes_in_its_place_and_the_maker_stops_with_its_reader() -> None:
    closed: list[bool] = []

    def items() -> Iterator[int]:
        try:
            yield 1
            raise ValueError("broken")
        finally:
            closed.append(True)

    found = prefetch(items(), 2)
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)
    before = threading.active_count()
    endless = prefetch(itertools.count(), 2)
    assert next(endless) == 0
    endless.close()  # pyright: ignore[reportAttributeAccessIssue]  # it is a generator
    wait_until(lambda: threading.active_count() <= before)
    assert closed == [True]
