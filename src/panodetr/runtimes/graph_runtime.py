"""A model that runs as two graphs, whatever runs them. NumPy only: no torch in here.

Letters: B images, H and W their padded size, N masks, h and w a mask's size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]
Shape = tuple[int | None, ...]
"""Of an array that a graph takes or gives out; None is a size that is open."""

DETECT_INPUTS = ("images", "padding")
MASK_SOURCES = ("states", "memory", "small_padding", "coarse", "fine", "finer", "finest")
"""What the detect graph computes for the masks graph, which takes those of one image."""

BOX_OUTPUTS = ("logits", "boxes")
"""All that the detect graph of a model without masks gives out."""

DETECT_OUTPUTS = (*BOX_OUTPUTS, *MASK_SOURCES)
MASKS_INPUTS = (*MASK_SOURCES, "query")
MASKS_OUTPUTS = ("masks",)

CACHED_PIXELS = 270_000
"""Pixels of the finest map that the masks graph works on at a time: five masks of an image of 800
by 1066. Fewer, and what they share is laid out anew too often; more, and they push each other's
activations out of the cache."""


@dataclass(frozen=True)
class Graph:
    """Named arrays in, named arrays out.

    Attributes:
        run: computes.
        inputs: what it takes, by name.
        outputs: what it gives out, likewise.
    """

    run: Callable[[Arrays], Arrays]
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]


class GraphRuntime:
    """A detect graph, and a masks graph where the model has masks."""

    def __init__(self, detect: Graph, masks: Graph | None = None) -> None:
        """Take graphs over.

        Raises:
            ValueError: a graph takes or gives out other arrays than it should.
        """
        _check("detect", detect, DETECT_INPUTS, BOX_OUTPUTS if masks is None else DETECT_OUTPUTS)
        if masks is not None:
            _check("masks", masks, MASKS_INPUTS, MASKS_OUTPUTS)
        self._detect = detect
        self._masks = masks

    def detect(self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None) -> GraphFound:
        """Run on images (B, H, W, 3) in RGB, resized; padding (B, H, W) is True beside them."""
        if padding is None:
            padding = np.zeros(images.shape[:3], np.bool_)
        return GraphFound(self._detect.run({"images": images, "padding": padding}), self._masks)


class GraphFound:
    """What the detect graph gave out."""

    def __init__(self, outputs: Arrays, masks: Graph | None) -> None:
        self.logits: NDArray[np.float32] = outputs["logits"].astype(np.float32, copy=False)
        self.boxes: NDArray[np.float32] = outputs["boxes"].astype(np.float32, copy=False)
        self._outputs = outputs
        self._masks = masks

    def masks(self, image: NDArray[np.intp], query: NDArray[np.intp]) -> NDArray[np.float32]:
        """Mask logits (N, h, w) of the queries (N,) of the images (N,).

        Raises:
            ValueError: the model has no mask head.
        """
        if self._masks is None:
            raise ValueError("this model has no mask head; export one that has")
        height, width = self._outputs["finest"].shape[-2:]
        masks = np.empty((len(image), height, width), np.float32)
        at_once = max(1, CACHED_PIXELS // (height * width))
        for number in np.unique(image):
            sources = {name: self._outputs[name][number : number + 1] for name in MASK_SOURCES}
            of_image = np.flatnonzero(image == number)
            for start in range(0, len(of_image), at_once):
                chosen = of_image[start : start + at_once]
                asked = sources | {"query": query[chosen].astype(np.int64)}
                masks[chosen] = self._masks.run(asked)["masks"]
        return masks


def _check(name: str, graph: Graph, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    """Compare the names of a graph's arrays with those that it should have.

    Raises:
        ValueError: they are others.
    """
    pairs = ("takes", graph.inputs, inputs), ("gives", graph.outputs, outputs)
    for what, found, expected in pairs:
        if set(found) != set(expected):
            raise ValueError(
                f"the {name} graph {what} {', '.join(found)}; expected {', '.join(expected)}"
            )
