from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from panodetr import threads
from panodetr.images.read import read_image
from panodetr.images.resize import resize
from panodetr.results.masks import NumpyMasks
from panodetr.threads import omp_threads, pool_threads


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
    NumpyMasks(np.zeros((3, 20, 20), np.float32)).highest((400, 400), (400, 400))
    assert started == asked
