"""The work as transformers does it: the only module of this package that imports transformers."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.compare import network_answer, threshold_keeping
from harness.ours import Segmenting
from panodetr.errors import MissingExtra

if TYPE_CHECKING:
    from harness.image import BenchImage
    from harness.process import Answer, Laps
    from harness.weights import RandomModel
    from panodetr.images.preprocess import Preprocessing


def _library() -> Any:
    """Import transformers, which is slow, and quieten it.

    Raises:
        MissingExtra: it is not installed.
    """
    if find_spec("transformers") is None:
        raise MissingExtra("comparing with transformers", "bench")
    import transformers

    library: Any = transformers  # parts of it are untyped
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


class _Network:
    """One of their models, and its processor."""

    def __init__(self, kind: str, model: RandomModel, image: BenchImage) -> None:
        library = _library()
        self.model = getattr(library, kind).from_pretrained(model.folder).eval()
        self.processor = library.DetrImageProcessorPil.from_pretrained(model.folder)
        self.inputs = self.processor(images=image.image(), return_tensors="pt")
        self.size = image.size
        self.threshold = model.threshold

    def answer(self) -> Answer:
        """Give classes and boxes of all queries, and their masks if the model has any."""
        import torch

        with torch.inference_mode():
            outputs = self.model(**self.inputs)
            scores, classes = outputs.logits[0].softmax(-1).max(-1)
        kept = (scores > self.threshold) & (classes != outputs.logits.shape[-1] - 1)
        logits, boxes = outputs.logits[0].numpy(), outputs.pred_boxes[0].numpy()
        queries = np.flatnonzero(kept.numpy())
        if "pred_masks" not in outputs:
            return network_answer(logits, boxes, queries)
        masks = outputs.pred_masks[0].numpy()
        return network_answer(logits, boxes, queries, masks, np.arange(len(masks)))


class TheirSegmenting(_Network):
    """`DetrForSegmentation` on a prepared image, and `post_process_panoptic_segmentation`."""

    def __init__(self, model: RandomModel, image: BenchImage, kept: int | None = None) -> None:
        """Load the model.

        Args:
            model: the folder and its threshold.
            image: what is segmented.
            kept: queries to be kept, by a threshold of this image's own: an image of another size
                has other scores. None: the model's threshold.
        """
        super().__init__("DetrForSegmentation", model, image)
        if kept is not None:
            self.threshold = threshold_keeping(self.answer()["logits"], kept)

    def run(self) -> Laps:
        """Call the model, and then read its outputs."""
        import torch

        with torch.inference_mode():
            start = time.perf_counter()
            outputs = self.model(**self.inputs)
            called = time.perf_counter()
            self.processor.post_process_panoptic_segmentation(
                outputs,
                threshold=self.threshold,
                label_ids_to_fuse=set(),
                target_sizes=[self.size],
            )
            return {"model": called - start, "whole": time.perf_counter() - start}


class SharedSegmenting(Segmenting):
    """`segment` over a model of transformers in memory, by `panodetr.from_transformers`."""

    def __init__(self, model: RandomModel, image: BenchImage) -> None:
        from panodetr import from_transformers

        theirs = _Network("DetrForSegmentation", model, image)
        self.model = from_transformers(theirs.model, theirs.processor)
        self.image, self.images = image.pixels(), 1
        self.threshold, self.own_threshold = model.threshold, False


class TheirDetecting(_Network):
    """`DetrForObjectDetection` on a prepared image, and `post_process_object_detection`."""

    def __init__(self, model: RandomModel, image: BenchImage) -> None:
        super().__init__("DetrForObjectDetection", model, image)

    def run(self) -> Laps:
        """Call the model, and then read its outputs."""
        import torch

        with torch.inference_mode():
            start = time.perf_counter()
            outputs = self.model(**self.inputs)
            self.processor.post_process_object_detection(
                outputs, threshold=self.threshold, target_sizes=[self.size]
            )
            return {"whole": time.perf_counter() - start}


class TheirPreparing:
    """From a decoded image to the model's input."""

    def __init__(self, image: BenchImage, rule: Preprocessing) -> None:
        size = {"shortest_edge": rule.short_side, "longest_edge": rule.long_side}
        self.processor = _library().DetrImageProcessorPil(size=size)
        self.image = image.image()

    def run(self) -> Laps:
        """Resize, normalise and make a tensor."""
        start = time.perf_counter()
        self.processor(images=self.image, return_tensors="pt")
        return {"whole": time.perf_counter() - start}

    def answer(self) -> Answer:
        """Give the tensor (1, 3, H, W)."""
        prepared = self.processor(images=self.image, return_tensors="pt")
        return {"pixels": prepared["pixel_values"].numpy()}
