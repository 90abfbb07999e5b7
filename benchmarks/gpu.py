"""A GPU end to end, beside transformers: images, detections, training steps; and where time goes.

    python benchmarks/gpu.py --data ../shared/data/nuclei

Takes less than eight minutes, installs nothing, and writes every row as soon as it is measured, so
that what a lent machine has done is kept. Correctness comes first: our answers in each precision
beside our float32, and `nuclei` in bfloat16 beside float32 on nuclei/val.

- segment, detect: from a decoded uint8 image of 960 by 1280 in memory to the finished result in
  memory. DETR R101, random weights, network input 800 by 1066, 15 kept. transformers: its
  processor, model and post-processing, at the best of its batches that fit; "graphs" is its model
  under `torch.compile(mode="reduce-overhead")`, one image at a time.
- train: a joint step, R50, 16 images of 512 by 512 with 12 objects each, bfloat16.
- nuclei: crops a second of `panodetr train nuclei` at batch 64, from the run's own log.

"of peak" is the share of the GPU's arithmetic and memory speed, by its data sheet: arithmetic is
counted by PyTorch, and an image moves about 3 GB in float32 where nothing is fused. Where there is
no GPU this says so, and measures nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

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
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.files import write_json, write_text
from panodetr.images.preprocess import resize
from panodetr.images.views import processed_size
from panodetr.loading import load
from panodetr.runtimes.base import Precision
from panodetr.runtimes.torch import full_float32

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
BATCHES = (1, 16, 32)
SECONDS = 3.0  # of every measurement, after it has warmed up
WARM_UP = 3
PEAKS = {"H100": (67e12, 989e12, 3.35e12), "H200": (67e12, 989e12, 4.8e12)}
"""Products and sums a second in float32 and in bfloat16, and bytes a second."""

MOVED = {"float32": 3e9, "bfloat16": 1.5e9}
"""Bytes that an image moves where nothing is fused."""

Line = dict[str, str]
Keep = Callable[[Line], None]


class Goal(NamedTuple):
    """A row of the table: the precision, the work, and our batch, None for the best of them."""

    precision: Precision
    work: str
    batch: int | None
    floor: str


GOALS = (
    Goal("float32", "segment", 1, "2.5x"),
    Goal("float32", "segment", None, "5x"),
    Goal("bfloat16", "segment", 1, "3x, 1.2x of graphs"),
    Goal("bfloat16", "segment", None, "4x"),
    Goal("bfloat16", "detect", 16, "3x"),
)


class Speed(NamedTuple):
    """Images a second, the batch, and the most bytes that PyTorch held of the GPU."""

    images: float
    batch: int
    peak: int | None = None


class Ours:
    """`Predictor.segment` and `detect`."""

    def __init__(
        self, model: RandomModel, kept: int, precision: Precision, device: str, image: Any
    ) -> None:
        self.model = load(model.folder, device=device, precision=precision, batch=max(BATCHES))
        self.image = image
        size = processed_size(image.shape[:2], self.model.spec.preprocessing)
        self.found = self.model.runtime.detect(np.stack([resize(image, size)]), None)
        self.threshold = threshold_keeping(self.found.logits[0], kept)

    def segment(self, count: int) -> None:
        self.model.segment([self.image] * count, threshold=self.threshold)

    def detect(self, count: int) -> None:
        self.model.detect([self.image] * count, threshold=self.threshold)

    def answer(self) -> Answer:
        """What the network finds in the image, with the masks of all queries."""
        logits = self.found.logits[0]
        every = np.arange(len(logits))
        (masks,) = (own.logits() for own in self.found.masks([every]))
        queries, boxes = kept_of(logits, self.threshold), self.found.boxes
        assert boxes is not None
        return network_answer(logits, boxes[0], queries, masks, every)


class Theirs:
    """From images in memory to segments or objects, by transformers."""

    def __init__(
        self, model: RandomModel, kept: int, precision: Precision, device: str, image: Any,
        *, work: str, graphs: bool = False,
    ) -> None:  # fmt: skip
        import transformers

        library: Any = transformers
        kind = {"segment": "DetrForSegmentation", "detect": "DetrForObjectDetection"}[work]
        network = getattr(library, kind).from_pretrained(model.folder).eval().to(device)
        self.processor = library.DetrImageProcessorPil.from_pretrained(model.folder)
        self.call = network
        if graphs:  # on the CPU, for tests, it is only traced
            backend, mode = ("eager", None) if device == "cpu" else ("inductor", "reduce-overhead")
            self.call = torch.compile(network, backend=backend, mode=mode)
        self.image, self.device = image, device
        self.precision: Precision = precision
        logits = self._run(1).logits[0].float().cpu().numpy()
        self.threshold = threshold_keeping(logits, kept)

    def segment(self, count: int) -> None:
        self.processor.post_process_panoptic_segmentation(
            self._run(count), threshold=self.threshold, label_ids_to_fuse=set(),
            target_sizes=[self.image.shape[:2]] * count,
        )  # fmt: skip

    def detect(self, count: int) -> None:
        sizes = [self.image.shape[:2]] * count
        self.processor.post_process_object_detection(
            self._run(count), threshold=self.threshold, target_sizes=sizes
        )

    @torch.inference_mode()
    def _run(self, count: int) -> Any:
        found = self.processor(images=[self.image] * count, return_tensors="pt")
        with arithmetic(self.precision, self.device):
            return self.call(**{key: value.to(self.device) for key, value in found.items()})


def arithmetic(precision: Precision, device: str) -> AbstractContextManager[object]:
    """What transformers computes in: the same as our runtime."""
    return full_float32 if precision == "float32" else torch.autocast(device, torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the data set nuclei")
    parser.add_argument("--images", type=int, default=24, help="at most so many of it")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of every measurement")
    parser.add_argument("--out", type=Path, default=OUT, help="where gpu.json goes")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("PyTorch sees no CUDA GPU here: nothing was measured")
        return
    lines: list[Line] = []
    on_data: dict[str, Any] | str | None = None

    def keep(line: Line) -> None:
        lines.append(line)
        print(line, flush=True)
        report = {"machine": describe_machine(), "gpu": torch.cuda.get_device_name()}
        write_json(options.out / "gpu.json", {**report, "lines": lines, "bf16_on_data": on_data})

    if options.data is not None:
        truth = first_images(GroundTruth.open(options.data, "val"), options.images)
        on_data = attempt(lambda: agreement_on(truth, "cuda"))
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder), Scale(), threads=torch.get_num_threads())
        compare_all(workshop, "cuda", BATCHES, options.seconds, keep, options.out)
    keep(train_line("cuda", 16, 512, options.seconds))
    if options.data is not None:
        keep({"row": "nuclei, training, batch 64", "floor": "1800 crops/s",
              "ours": attempt(partial(crops_a_second, options.data))})  # fmt: skip
    print(markdown(table(lines)))


def table(lines: list[Line]) -> list[list[str]]:
    """All lines with all columns."""
    columns = list(dict.fromkeys(column for line in lines for column in line))
    return [columns, *([line.get(column, "") for column in columns] for line in lines)]


def compare_all(
    workshop: Workshop, device: str, batches: tuple[int, ...], seconds: float, keep: Keep, out: Path
) -> None:
    """Measure every goal of inference; ours and theirs are in memory one at a time."""
    scale = workshop.scale
    image, kept = workshop.image(scale.saved).pixels(), scale.kept
    exact = attempt(lambda: Ours(workshop.segmenter, kept, "float32", device, image).answer())
    speeds: dict[tuple[str, str, str], dict[int, Speed] | str] = {}
    for precision, work in dict.fromkeys((goal.precision, goal.work) for goal in GOALS):
        model = workshop.segmenter if work == "segment" else workshop.detector
        near, share = "", ""
        for name, kind in (("ours", Ours), ("theirs", partial(Theirs, work=work))):
            _tell(f"{precision} {work}: {name}")
            side: Any = attempt(partial(kind, model, kept, precision, device, image))
            speeds[name, precision, work] = _speeds(side, work, batches, seconds)
            if isinstance(side, Ours):
                if work == "segment":
                    near = attempt(partial(_near, side, exact, kept))
                share = attempt(partial(_flops, side, work))
                if precision == "bfloat16":
                    profile(side, work, max(batches), out)
            del side
            _let_go()
        for goal in GOALS:
            if goal[:2] == (precision, work):
                keep(_line(goal, speeds, near, share))
    _tell("bfloat16 segment: theirs with graphs")
    side = attempt(
        partial(
            Theirs, workshop.segmenter, kept, "bfloat16", device, image,
            work="segment", graphs=True,
        )
    )  # fmt: skip
    graphs = _speeds(side, "segment", batches[:1], seconds)
    ours = speeds["ours", "bfloat16", "segment"]
    shown = graphs if isinstance(graphs, str) else _ratio(ours, graphs, batches[0])
    keep({"row": "bfloat16, segment, batch 1, of graphs", "floor": "1.2x", "faster": shown})


def _line(
    goal: Goal, speeds: dict[tuple[str, str, str], dict[int, Speed] | str], near: str, flops: Any
) -> Line:
    """A row of the table."""
    ours, theirs = (speeds[name, goal.precision, goal.work] for name in ("ours", "theirs"))
    batch = f"batch {goal.batch}" if goal.batch else "best batch"
    line = {"row": f"{goal.precision}, {goal.work}, {batch}", "floor": goal.floor}
    if isinstance(ours, str) or isinstance(theirs, str):
        return {**line, "ours": str(ours), "transformers": str(theirs)}
    best = max(theirs.values())
    own = ours.get(goal.batch or max(ours.values()).batch, max(ours.values()))
    return {
        **line,
        "ours": f"{own.images:.1f}/s at {own.batch}",
        "transformers": f"{best.images:.1f}/s at {best.batch}",
        "faster": f"{own.images / best.images:.1f}x",
        "of peak": _of_peak(own.images, flops, goal.precision),
        "memory": "" if own.peak is None else size(own.peak),
        "of transformers": "" if best.peak is None else size(best.peak),
        "against our float32": near,
    }


def _ratio(ours: dict[int, Speed] | str, theirs: dict[int, Speed], batch: int) -> str:
    return ours if isinstance(ours, str) else f"{ours[batch].images / theirs[batch].images:.1f}x"


def _of_peak(images: float, flops: Any, precision: Precision) -> str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peaks = next((peak for known, peak in PEAKS.items() if known in name), None)
    if peaks is None or isinstance(flops, str):
        return ""
    arithmetic, bytes_ = images * flops / peaks[precision != "float32"], images * MOVED[precision]
    return f"{arithmetic:.0%} of FLOP, {bytes_ / peaks[2]:.0%} of bandwidth"


def _near(side: Ours, exact: Answer | str, kept: int) -> str:
    return exact if isinstance(exact, str) else compare_loosely(side.answer(), exact, kept).text


def _flops(side: Ours, work: str) -> int:
    """Products and sums of an image."""
    with FlopCounterMode(display=False) as counter:
        getattr(side, work)(1)
    return counter.get_total_flops()


def profile(side: Ours, work: str, count: int, out: Path) -> None:
    """Write where the time of a batch goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    def act() -> str:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        with profiled(activities=activities) as found:
            getattr(side, work)(count)
        by = "cuda_time_total" if torch.cuda.is_available() else "cpu_time_total"
        return found.key_averages().table(sort_by=by, row_limit=25)

    write_text(out / f"gpu-profile-{work}.txt", attempt(act))


def train_line(device: str, images: int, side: int, seconds: float) -> Line:
    """A joint training step in bfloat16 beside that of transformers."""
    import training

    def steps(prepare: Callable[..., Callable[[], float]]) -> Speed:
        step = prepare(side, images=images, device=device, half=True)
        return _speed(lambda _: step(), images, seconds)

    line = {"row": f"bfloat16, training step, batch {images}", "floor": "4x"}
    ours = attempt(lambda: steps(partial(training.prepare_ours, learned="all", every_mask=False)))
    _let_go()
    theirs = attempt(lambda: steps(training.prepare_transformers))
    _let_go()
    for name, speed in (("ours", ours), ("transformers", theirs)):
        line[name] = speed if isinstance(speed, str) else f"{speed.images:.1f}/s at {images}"
    if isinstance(ours, Speed) and isinstance(theirs, Speed):
        line["faster"] = f"{ours.images / theirs.images:.1f}x"
    return line


def crops_a_second(data: Path, steps: int = 300, *more: str) -> str:
    """Train `nuclei` for a few steps, and read the last speed in the run's log."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        changes = ("batch_size=64", f"steps={steps}", "log_every=50", *more)
        command = [sys.executable, "-m", "panodetr", "train", "nuclei", "--data", data]
        command += ["--val", "none", "--out", run, *(w for c in changes for w in ("--set", c))]
        subprocess.run(command, check=True, capture_output=True)
        logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    speeds = [one["images_per_second"] for one in logged if "images_per_second" in one]
    return f"{speeds[-1]:.0f} crops/s"


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
        return f"failed: {type(error).__name__}: {lines[0][:100]}"


def _speeds(
    side: Any, work: str, batches: tuple[int, ...], seconds: float
) -> dict[int, Speed] | str:
    """How fast each batch is that fits; or why none does."""
    if isinstance(side, str):
        return side
    found: dict[int, Speed] = {}
    failed = ""
    for count in batches:
        speed = attempt(partial(_speed, getattr(side, work), count, seconds))
        if isinstance(speed, str):
            failed = speed
            break
        found[count] = speed
    return found or failed


def _speed(run: Callable[[int], Any], count: int, seconds: float) -> Speed:
    """The median over rounds, and the most memory of the GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of the measurement before, whose images may have been more
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP):
        run(count)
    rounds: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not rounds:
        _wait()
        start = time.perf_counter()
        run(count)
        _wait()
        rounds.append(count / (time.perf_counter() - start))
    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
    return Speed(statistics.median(rounds), count, peak)


def _let_go() -> None:
    """Leave nothing of a side to the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _tell(what: str) -> None:
    print(f"{time.strftime('%X')} {what}", file=sys.stderr, flush=True)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
