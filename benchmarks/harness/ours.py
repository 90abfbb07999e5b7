"""The work as this package does it; each class is made ready in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np

import panodetr
from harness.compare import kept_of, network_answer, threshold_keeping
from panodetr.runtimes.base import Runtime

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from harness.image import BenchImage
    from harness.process import Answer, Laps
    from harness.weights import RandomModel
    from panodetr.images.preprocess import Preprocessing
    from panodetr.predict import Predictor
    from panodetr.results.masks import Masks
    from panodetr.runtimes.base import Prediction, RuntimeName


def run_network(model: Predictor, image: NDArray[np.uint8]) -> Prediction:
    """Run on an image that fits into one tile; the answers are those of a batch of one."""
    from panodetr.images.views import read_tiled, view_batches

    rule = model.spec.preprocessing
    ((view,),) = view_batches([read_tiled(image, rule)], rule)
    return model.runtime.detect(np.stack([view.pixels]), None)


class Segmenting:
    """`model.segment(image)`: from a decoded image to a `PanopticResult`."""

    def __init__(
        self,
        source: Path,
        image: BenchImage,
        runtime: RuntimeName | None = None,
        kept: int | None = None,
        images: int = 1,
    ) -> None:
        """Load the model.

        Args:
            source: a model, or an exported file.
            image: what is segmented.
            runtime: what runs it; None: PyTorch, or what an exported file was made for.
            kept: queries to be kept, by a threshold of its own: less precise arithmetic has other
                scores, and masks are what takes the time. None: the model's own threshold.
            images: how many copies of the image one run segments.
        """
        self.model = panodetr.load(source, device="cpu", runtime=runtime)
        self.image = image.pixels()
        self.images = images
        self.threshold = self.model.spec.threshold
        self.own_threshold = kept is not None
        if kept is not None:
            self.threshold = threshold_keeping(self._network().logits[0], kept)

    def run(self) -> Laps:
        """Segment."""
        images = [self.image] * self.images
        start = time.perf_counter()
        self.model.segment(images, threshold=self.threshold)
        return {"whole": time.perf_counter() - start}

    def answer(self) -> Answer:
        """Give classes and boxes of all queries, and the masks of those that are kept.

        With a threshold of its own the masks of all: the other side may keep other queries. They
        are made few at a time, so that the peak of memory stays that of segmenting.
        """
        found = self._network()
        logits = found.logits[0]
        kept = kept_of(logits, self.threshold)
        masked = np.arange(len(logits)) if self.own_threshold else kept
        parts = np.array_split(masked, max(1, len(masked) // max(1, len(kept))))
        masks = np.concatenate([found.masks([part])[0].logits() for part in parts])
        assert found.boxes is not None
        return network_answer(logits, found.boxes[0], kept, masks, masked)

    def _network(self) -> Prediction:
        return run_network(self.model, self.image)


class AllMasks:
    """`DetrForSegmentation(...)`, the card's call: masks of all queries."""

    def __init__(self, model: RandomModel, image: BenchImage) -> None:
        from panodetr.compat import DetrForSegmentation, DetrImageProcessor

        self.threshold = model.threshold
        self.model = DetrForSegmentation.from_pretrained(model.folder)
        processor = DetrImageProcessor.from_pretrained(model.folder)
        self.inputs = processor(images=image.image(), return_tensors="pt")

    def run(self) -> Laps:
        """Call the model."""
        import torch

        with torch.inference_mode():
            start = time.perf_counter()
            self.model(**self.inputs)
            return {"model": time.perf_counter() - start}

    def answer(self) -> Answer:
        """Give classes, boxes and masks of all queries."""
        import torch

        with torch.inference_mode():
            found = self.model(**self.inputs)
        logits, masks = found.logits[0].numpy(), found.pred_masks[0].numpy()
        kept = kept_of(logits, self.threshold)
        return network_answer(
            logits, found.pred_boxes[0].numpy(), kept, masks, np.arange(len(masks))
        )


class Detecting:
    """`model.detect(image)`: boxes alone."""

    def __init__(
        self, model: RandomModel, image: BenchImage, runtime: RuntimeName | None = None
    ) -> None:
        self.model = panodetr.load(model.folder, device="cpu", runtime=runtime)
        self.threshold = model.threshold
        self.image = image.pixels()

    def run(self) -> Laps:
        """Detect."""
        start = time.perf_counter()
        self.model.detect(self.image, threshold=self.threshold)
        return {"whole": time.perf_counter() - start}

    def answer(self) -> Answer:
        """Give classes and boxes of all queries."""
        found = run_network(self.model, self.image)
        logits = found.logits[0]
        assert found.boxes is not None
        return network_answer(logits, found.boxes[0], kept_of(logits, self.threshold))


class Preparing:
    """From a decoded image to the model's input."""

    def __init__(self, image: BenchImage, rule: Preprocessing) -> None:
        self.image = image.image()
        self.rule = rule

    def run(self) -> Laps:
        """Resize, normalise and make a tensor."""
        start = time.perf_counter()
        self._prepare()
        return {"whole": time.perf_counter() - start}

    def answer(self) -> Answer:
        """Give the tensor (1, 3, H, W)."""
        return {"pixels": self._prepare().numpy()}

    def _prepare(self) -> Tensor:
        import torch

        from panodetr.images.views import read_tiled, view_batches
        from panodetr.runtimes.torch import normalize_images

        ((view,),) = view_batches([read_tiled(self.image, self.rule)], self.rule)
        images = torch.from_numpy(np.stack([view.pixels]))  # 1, H, W, 3
        return normalize_images(images, None, self.rule)  # 1, 3, H, W


class Finishing:
    """What comes after the network: merging, and the id map, the JSON and the overlay as files."""

    def __init__(self, model: RandomModel, image: BenchImage, kept: int) -> None:
        from panodetr.predict import Predictor

        loaded = panodetr.load(model.folder, device="cpu")
        self.watch = Watched(loaded.runtime)
        self.model = Predictor(loaded.spec, self.watch)
        self.image = image.pixels()
        # An image of another size has other scores; there must be as many segments.
        self.threshold = threshold_keeping(run_network(loaded, self.image).logits[0], kept)

    def run(self) -> Laps:
        """Segment and save, and tell the network's time from what comes after it."""
        self.watch.intervals.clear()
        with tempfile.TemporaryDirectory() as folder:
            self.model.segment(self.image, threshold=self.threshold).save(folder)
            saved = time.perf_counter()
        (_, detected), *later = self.watch.intervals
        network = sum(end - start for start, end in self.watch.intervals)
        after = saved - detected - sum(end - start for start, end in later)
        return {"model": network, "results": after}

    def answer(self) -> Answer:
        """Run once, to have run; nobody else does this work."""
        self.run()
        return {}


class Watched(Runtime):
    """A runtime that notes when it was at work."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.intervals: list[tuple[float, float]] = []

    def detect(self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None) -> Prediction:
        """Run as the runtime does."""
        start = time.perf_counter()
        found = self._runtime.detect(images, padding)
        self.intervals.append((start, time.perf_counter()))
        return _WatchedPrediction(found, self.intervals)


class _WatchedPrediction:
    """What was found; making masks, once, and letting go of features count as its work, too."""

    def __init__(self, found: Prediction, intervals: list[tuple[float, float]]) -> None:
        self._found: Prediction | None = found
        self._intervals = intervals
        self.logits = found.logits
        self.boxes = found.boxes

    def masks(self, queries: Sequence[NDArray[np.intp]]) -> list[Masks]:
        """Make masks as the runtime does."""
        start = time.perf_counter()
        assert self._found is not None
        masks = self._found.masks(queries)
        self._found = None  # its memory goes back to the system, which takes milliseconds
        self._intervals.append((start, time.perf_counter()))
        return masks


class Starting:
    """A Python that imports the package, and the program that shows its help."""

    def run(self) -> Laps:
        """Start each; the interpreter's own start is in the time."""
        commands = {"import": ["-c", "import panodetr"], "help": ["-m", "panodetr", "--help"]}
        laps: Laps = {}
        for name, arguments in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            laps[name] = time.perf_counter() - start
        return laps

    def answer(self) -> Answer:
        """Run once, so that the files are in the system's cache."""
        self.run()
        return {}
