"""EoMT beside transformers': seconds an image and peak memory, in turns, one process a side.

    python benchmarks/eomt.py                       # S, B and L
    python benchmarks/eomt.py small --openvino --int8 --repeats 5

Random weights, an image of 960 by 1280 on a square of 640, 15 of 200 queries kept, and no attention
masked. Both sides begin with the decoded image and end with a map of segments. The exit code is 1
where a floor does not hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.compare import threshold_keeping
from harness.image import SAMPLE, BenchImage
from harness.machine import describe_machine
from harness.ours import open_model, run_network
from harness.process import Side, in_fresh_process
from panodetr.checkpoints.published import dense_categories
from panodetr.checkpoints.save import save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.export.export import export
from panodetr.files import write_json
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import eomt
from panodetr.model.eomt import Eomt

if TYPE_CHECKING:
    from harness.process import Answer, Laps

OUT = Path(__file__).parents[1] / "docs" / "benchmarks" / "eomt.json"
IMAGE = BenchImage(file=SAMPLE, size=(960, 1280))
SIDE, CLASSES, KEPT = 640, 133, 15
CATEGORIES = dense_categories(CLASSES, None)  # COCO's
GIB = 1 << 30

FLOORS = {"small": {"faster": 1.6, "memory": 0.5}, "large": {"faster": 1.05, "above weights": 0.6}}
"""How many times faster, at most which part of their peak, and GiB above the weights at most."""


def write_model(folder: Path, size: Any) -> int:
    """Write random weights as transformers does; give their bytes."""
    torch.manual_seed(0)
    shape = eomt(size, CLASSES)
    model = Eomt(shape).eval()
    with torch.no_grad():
        model.class_head.weight *= 30  # a fresh one gives every query nearly the same classes
    spec = ModelSpec(
        name=size,
        architecture=shape,
        categories=CATEGORIES,
        preprocessing=Preprocessing(short_side=SIDE, long_side=SIDE, multiple=SIDE),
        threshold=0.8,
        overlap=0.8,
    )
    save_pretrained(folder, spec, model, format="huggingface")
    return sum(4 * tensor.numel() for tensor in model.state_dict().values())


class Ours:
    """`model.segment(image)`."""

    def __init__(self, source: Path) -> None:
        self.model = open_model(source)
        self.image = IMAGE.pixels()
        logits = run_network(self.model, self.image).logits[0]
        self.threshold = threshold_keeping(logits, KEPT)

    def run(self) -> Laps:
        start = time.perf_counter()
        self.model.segment(self.image, threshold=self.threshold)
        return {"whole": time.perf_counter() - start}

    def answer(self) -> Answer:
        return {"logits": run_network(self.model, self.image).logits[0]}


class Theirs:
    """Their processor, model, and panoptic post-processing."""

    def __init__(self, source: Path) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        size = {"shortest_edge": SIDE, "longest_edge": SIDE}
        self.model = transformers.EomtForUniversalSegmentation.from_pretrained(source).eval()
        self.model.attn_mask_probs.zero_()
        self.processor = transformers.EomtImageProcessorPil(size=size, do_pad=True)
        self.image = IMAGE.pixels()
        self.stuff = [c.index for c in CATEGORIES if not c.is_thing]
        self.threshold = threshold_keeping(self.answer()["logits"], KEPT)

    def _call(self) -> Any:
        with torch.inference_mode():
            return self.model(self.processor(self.image, return_tensors="pt")["pixel_values"])

    def run(self) -> Laps:
        start = time.perf_counter()
        outputs = self._call()
        called = time.perf_counter()
        with torch.inference_mode():
            self.processor.post_process_panoptic_segmentation(
                outputs, [IMAGE.size], threshold=self.threshold, stuff_classes=self.stuff
            )
        return {"model": called - start, "whole": time.perf_counter() - start}

    def answer(self) -> Answer:
        return {"logits": self._call().class_queries_logits[0].numpy()}


def measure(size: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure one size: seconds and peaks by side."""
    model = folder / size
    weights = in_fresh_process(partial(write_model, model, size), options.threads)
    jobs: dict[str, Any] = {"transformers": partial(Theirs, model), "torch": partial(Ours, model)}
    for name in ("openvino", "int8"):
        if getattr(options, name):
            calibration = SAMPLE.parent if name == "int8" else None
            file = folder / f"{size}-{name}"
            in_fresh_process(
                partial(export, model, file, format="openvino", calibration=calibration),
                options.threads,
            )
            jobs[name] = partial(Ours, file)
    found: dict[str, Any] = {"size": size, "weights": weights}
    sides = {name: Side(job, options.threads) for name, job in jobs.items()}
    try:
        laps: dict[str, list[Laps]] = {name: [] for name in sides}
        for _ in range(options.repeats):
            for name, side in sides.items():
                laps[name].append(side.run())
        for name, side in sides.items():
            seconds = [lap["whole"] for lap in laps[name]]
            found[name] = {
                "seconds": statistics.median(seconds),
                "all": seconds,
                "peak": side.peak(),
            }
    finally:
        for side in sides.values():
            side.close()
    ours, theirs = found["torch"], found["transformers"]
    found["faster"] = theirs["seconds"] / ours["seconds"]
    found["memory"] = ours["peak"] / theirs["peak"]
    found["above weights"] = (ours["peak"] - weights) / GIB
    floors = FLOORS.get(size, {})
    found["holds"] = all(
        found[name] >= least if name == "faster" else found[name] <= least
        for name, least in floors.items()
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=["small", "base", "large"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--openvino", action="store_true")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    before = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    rows = {row["size"]: row for row in before["rows"]}
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            rows[size] = measure(size, options, Path(folder))
            print(json.dumps(rows[size]), flush=True)
    machine = describe_machine()
    write_json(
        options.out, {"machine": machine, "threads": options.threads, "rows": [*rows.values()]}
    )
    return 0 if all(rows[size]["holds"] for size in options.sizes) else 1


if __name__ == "__main__":
    sys.exit(main())
