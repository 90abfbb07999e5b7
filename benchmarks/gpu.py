"""Images a second on a GPU, beside transformers: batches of 1 and 16, float32, bf16, compiled.

    python benchmarks/gpu.py --data ../shared/data/nuclei

DETR R101 with masks, random weights, images of 800 by 1066. Two kinds of work:

- network: this package's runtime from uint8 images in memory, which go up and are normalised there,
  to classes, boxes and the masks of 15 queries an image, in memory again; transformers' model from
  pixels that were prepared before, to the masks of all queries, which stay on the GPU.
- segment: `model.segment(image)`, and transformers' processor, model and post-processing.

"compiled" is `torch.compile`. "CUDA graphs" is its mode `reduce-overhead`, which records a graph
for every shape, so images are padded to whole multiples of 128 pixels and share those. The side of
transformers is run in autocast for bf16, and compiled the same way. Memory is what PyTorch holds of
the GPU at most; what a replayed graph works in is a part of that.

How near bf16 comes is told for every way: on these weights, of the same padding, and with `--data`
on nuclei/val, where weights are trained. Where there is no GPU this says so, and measures nothing.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.agreement import agree, first_images
from harness.compare import (
    compare_loosely,
    describe,
    kept_of,
    network_answer,
    threshold_keeping,
)
from harness.machine import describe_machine
from harness.process import Answer
from harness.report import markdown, size
from harness.rows import Scale
from harness.run import Workshop
from harness.weights import RandomModel
from panodetr.checkpoints.load import load_checkpoint
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.files import write_json
from panodetr.loading import load
from panodetr.predict import Predictor
from panodetr.results.masks import Masks
from panodetr.runtimes.base import Precision, Prediction, Runtime
from panodetr.runtimes.torch import TorchRuntime, full_float32

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
BATCHES = (1, 16)
SECONDS = 5.0  # of every measurement, after it has warmed up
WARM_UP = 3
BUCKET = 128  # pixels
FINER = 4  # a mask has a pixel for so many of the image's, each way

Line = dict[str, str]


@dataclass(frozen=True)
class Way:
    """How the network is run."""

    name: str
    precision: Precision = "float32"
    compiled: bool = False
    graphs: bool = False
    padded: bool = False

    @property
    def exact(self) -> Way:
        """The same images in float32."""
        return Way(self.name, padded=self.padded)

    def context(self, device: str) -> AbstractContextManager[object]:
        """What transformers runs in; the same arithmetic as our runtime's."""
        half = self.precision == "bfloat16"
        return torch.autocast(device, torch.bfloat16) if half else full_float32

    def compile(self, function: Callable[..., Any], device: str) -> Callable[..., Any]:
        """Compile a function, where this way does; on the CPU, for tests, it is only traced."""
        if not self.compiled:
            return function
        if device == "cpu":
            return torch.compile(function, backend="eager")
        return torch.compile(function, mode="reduce-overhead" if self.graphs else None)


WAYS = (
    Way("float32"),
    Way("bf16", "bfloat16"),
    Way("bf16, CUDA graphs", "bfloat16", compiled=True, graphs=True, padded=True),
    Way("bf16, compiled", "bfloat16", compiled=True),
)


@dataclass(frozen=True)
class Speed:
    """Images a second, and the most bytes that PyTorch held of the GPU; None without one."""

    images: float
    peak: int | None


class Bucketed(Runtime):
    """A runtime that sees images padded to whole buckets, so that few shapes are compiled for."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def detect(self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None) -> Prediction:
        count, height, width = images.shape[:3]
        whole = tuple(-(-side // BUCKET) * BUCKET for side in (height, width))
        padded = np.zeros((count, *whole, 3), np.uint8)
        padded[:, :height, :width] = images
        beside = np.ones((count, *whole), np.bool_)
        beside[:, :height, :width] = False if padding is None else padding
        found = self.runtime.detect(padded, beside)
        return _Cropped(found, -(-height // FINER), -(-width // FINER))


class _Cropped:
    """What was found in a padded image, its masks without the padding."""

    def __init__(self, found: Prediction, height: int, width: int) -> None:
        self._found, self._size = found, (height, width)
        self.logits, self.boxes = found.logits, found.boxes

    def masks(self, queries: Sequence[NDArray[np.intp]]) -> list[Masks]:
        height, width = self._size
        found: list[Any] = list(self._found.masks(queries))
        return [type(own)(own.values[:, :height, :width]) for own in found]


class Ours:
    """This package's runtime, compiled where that is asked for."""

    def __init__(
        self, model: RandomModel, kept: int, way: Way, device: str, image: NDArray[np.uint8]
    ) -> None:
        spec, network = load_checkpoint(model.folder)
        runtime = TorchRuntime(network, spec.preprocessing, torch.device(device), way.precision)
        run: Any = runtime.model
        run.detect = way.compile(run.detect, device)
        if way.compiled and not way.graphs:  # how many masks there are changes from call to call
            for name in ("share", "attend", "refine"):
                setattr(run, name, way.compile(getattr(run, name), device))
        self.runtime: Runtime = Bucketed(runtime) if way.padded else runtime
        self.model = Predictor(spec, self.runtime)
        found = self.runtime.detect(image[None], None)
        self.threshold = threshold_keeping(found.logits[0], kept)

    def network(self, images: NDArray[np.uint8]) -> None:
        """From images (B, H, W, 3) to the masks of the queries that are kept."""
        found = self.runtime.detect(images, None)
        kept = [kept_of(logits, self.threshold) for logits in found.logits]
        found.masks(kept)

    def segment(self, images: NDArray[np.uint8]) -> None:
        """From images (B, H, W, 3) to results."""
        self.model.segment(list(images), threshold=self.threshold)

    def answer(self, image: NDArray[np.uint8]) -> Answer:
        """What it finds in one image, with the masks of all queries."""
        found = self.runtime.detect(image[None], None)
        every = np.arange(found.logits.shape[1])
        (masks,) = (own.logits() for own in found.masks([every]))
        logits = found.logits[0]
        return network_answer(logits, found.boxes[0], kept_of(logits, self.threshold), masks, every)


class Theirs:
    """From prepared pixels in memory to the masks of all queries, or from images to segments."""

    def __init__(
        self, model: RandomModel, kept: int, way: Way, device: str, image: NDArray[np.uint8]
    ) -> None:
        import transformers

        library: Any = transformers
        network = library.DetrForSegmentation.from_pretrained(model.folder).eval().to(device)
        self.processor = library.DetrImageProcessorPil.from_pretrained(model.folder)
        self.call = way.compile(network, device)
        self.way, self.device, self.size = way, device, image.shape[:2]
        self.pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        if device == "cuda":
            self.pixels = self.pixels.pin_memory()
        logits = self._call(self.pixels).logits[0].float().cpu().numpy()
        self.threshold = threshold_keeping(logits, kept)

    def network(self, images: NDArray[np.uint8]) -> None:
        """Run on as many images."""
        pixels = self.pixels.to(self.device, non_blocking=True)  # once; the others are its copies
        self._call(pixels.expand(len(images), -1, -1, -1))

    @torch.inference_mode()
    def segment(self, images: NDArray[np.uint8]) -> None:
        """From images (B, H, W, 3) to segments."""
        found = self.processor(images=list(images), return_tensors="pt")
        self.processor.post_process_panoptic_segmentation(
            self._call(found["pixel_values"]),
            threshold=self.threshold,
            label_ids_to_fuse=set(),
            target_sizes=[self.size] * len(images),
        )

    @torch.inference_mode()
    def _call(self, pixels: torch.Tensor) -> Any:
        with self.way.context(self.device):
            return self.call(pixel_values=pixels.to(self.device, non_blocking=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the data set nuclei")
    parser.add_argument("--images", type=int, help="at most so many of it")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of every measurement")
    parser.add_argument("--out", type=Path, default=OUT, help="where gpu.json goes")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("PyTorch sees no CUDA GPU here: nothing was measured")
        return
    lines: list[Line] = []
    on_data: dict[str, Any] | str | None = None
    keep = partial(_keep, options.out / "gpu.json", lines)  # what is measured is not lost
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder), Scale(), threads=torch.get_num_threads())
        for found in compare_all(workshop, "cuda", BATCHES, options.seconds):
            lines += found
            keep(on_data)
    if options.data is not None:
        truth = first_images(GroundTruth.open(options.data, "val"), options.images)
        on_data = attempt(lambda: agreement_on(truth, "cuda"))
        keep(on_data)
    print(torch.cuda.get_device_name())
    print(markdown([list(lines[0]), *(list(line.values()) for line in lines)]))
    if on_data is not None:
        text = on_data if isinstance(on_data, str) else on_data["text"]
        print(f"nuclei, bf16 against float32: {text}")


def _keep(file: Path, lines: list[Line], on_data: dict[str, Any] | str | None) -> None:
    report = {
        "machine": describe_machine(),
        "gpu": torch.cuda.get_device_name(),
        "lines": lines,
        "bf16_on_data": on_data,
    }
    write_json(file, report)


def compare_all(
    workshop: Workshop, device: str, batches: tuple[int, ...], seconds: float
) -> Iterator[list[Line]]:
    """Measure both sides in every kind of work and batch, way by way; what fails is told."""
    scale, model = workshop.scale, workshop.segmenter
    image = workshop.image(scale.fed).pixels()
    for way in WAYS:
        exact = attempt(partial(_answer, model, scale.kept, way.exact, device, image))
        lines: list[Line] = []
        speeds: dict[str, dict[tuple[str, int], Speed | str]] = {}
        near = ""
        for name, kind in (("ours", Ours), ("theirs", Theirs)):  # one at a time in memory
            _tell(f"{way.name}: {name}")
            side = attempt(partial(kind, model, scale.kept, way, device, image))
            speeds[name] = _speeds(side, image, batches, seconds)
            if isinstance(side, Ours):
                near = _near(side, exact, image, scale.kept)
            del side
            _let_go(device)
        for work, count in speeds["ours"]:
            ours, theirs = speeds["ours"][work, count], speeds["theirs"][work, count]
            faster = ""
            if isinstance(ours, Speed) and isinstance(theirs, Speed):
                faster = f"{ours.images / theirs.images:.1f}x"
            lines.append({
                "way": way.name,
                "work": work,
                "batch": str(count),
                "images/s": _shown(ours),
                "transformers": _shown(theirs),
                "faster": faster,
                "memory": _memory(ours),
                "of transformers": _memory(theirs),
                "against our float32": near,
            })  # fmt: skip
        yield lines


def agreement_on(truth: GroundTruth, device: str) -> dict[str, Any]:
    """How near the bundled model comes in bf16, and the panoptic quality of both."""
    figures = agree(load(device=device), load(device=device, precision="bfloat16"), truth)
    text = (
        f"{figures['queries']:.0f} queries: {describe(figures)}; "
        f"PQ {100 * figures['reference_pq']:.1f} → {100 * figures['pq']:.1f}"
    )
    return {"images": len(truth.images), "text": text, "figures": figures}


def attempt(act: Callable[[], Any]) -> Any:
    """What it gives, or in a line what went wrong: compilers fail in many ways, and memory ends."""
    try:
        return act()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return f"failed: {type(error).__name__}: {lines[0]}"


def _speeds(
    side: Ours | Theirs | str, image: NDArray[np.uint8], batches: tuple[int, ...], seconds: float
) -> dict[tuple[str, int], Speed | str]:
    """How fast every kind of work and batch is done."""
    found: dict[tuple[str, int], Speed | str] = {}
    for work, count in itertools.product(("network", "segment"), batches):
        if isinstance(side, str):
            found[work, count] = side
            continue
        _tell(f"{work} of {count}")
        images = np.repeat(image[None], count, axis=0)
        run = getattr(side, work)
        found[work, count] = attempt(partial(_speed, run, images, seconds))
    return found


def _speed(
    run: Callable[[NDArray[np.uint8]], None], images: NDArray[np.uint8], seconds: float
) -> Speed:
    """The median over rounds, and the most memory of the GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of the measurement before, whose images may have been more
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP):
        run(images)
    rounds: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not rounds:
        _wait()
        start = time.perf_counter()
        run(images)
        _wait()
        rounds.append(len(images) / (time.perf_counter() - start))
    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
    return Speed(statistics.median(rounds), peak)


def _let_go(device: str) -> None:
    """Leave nothing of a side to the next one, neither what was compiled nor recorded graphs."""
    torch.compiler.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _answer(
    model: RandomModel, kept: int, way: Way, device: str, image: NDArray[np.uint8]
) -> Answer:
    return Ours(model, kept, way, device, image).answer(image)


def _near(side: Ours, exact: Answer | str, image: NDArray[np.uint8], kept: int) -> str:
    if isinstance(exact, str):
        return exact
    found = attempt(lambda: compare_loosely(side.answer(image), exact, kept))
    return found if isinstance(found, str) else found.text


def _tell(what: str) -> None:
    print(f"{time.strftime('%X')} {what}", file=sys.stderr, flush=True)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _shown(speed: Speed | str) -> str:
    return speed if isinstance(speed, str) else f"{speed.images:.1f}"


def _memory(speed: Speed | str) -> str:
    return "" if isinstance(speed, str) or speed.peak is None else size(speed.peak)


if __name__ == "__main__":
    main()
