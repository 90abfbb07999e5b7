from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from panodetr.results.semantic import classify_pixels

sides = st.integers(2, 24)


@given(st.tuples(sides, sides), st.tuples(sides, sides), st.integers(0, 2**31))
def test_every_pixel_has_the_class_of_the_highest_sum(
    mask: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    noise = np.random.default_rng(seed)
    logits = noise.standard_normal((6, 5)).astype(np.float32) * 2
    masks = noise.standard_normal((6, *mask)).astype(np.float32) * 3
    masks[0] = -200  # far outside
    named = np.array([True, False, True, True])
    ids, segments = classify_pixels(logits, masks, named, size)
    values = torch.einsum(
        "qc,qhw->chw",
        torch.from_numpy(logits).softmax(-1)[:, :-1],
        torch.from_numpy(masks).sigmoid(),
    )
    values[1] = -1
    grown = F.interpolate(values[None], size, mode="bilinear")[0]
    class_of = np.array([-1, *(segment.class_index for segment in segments)])
    chosen = torch.from_numpy(class_of[ids])
    # Of values that are equal but for rounding either may win.
    short = grown.amax(0) - grown.gather(0, chosen[None])[0]
    assert short.max() < 1e-5
    assert [segment.id for segment in segments] == list(range(1, len(segments) + 1))
    assert sum(segment.area for segment in segments) == size[0] * size[1]
    assert all(0 < segment.score < 1 for segment in segments)
