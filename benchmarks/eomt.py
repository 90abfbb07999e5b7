"""EoMT beside transformers' and beside DETR: seconds an image and peak memory.

    python benchmarks/eomt.py                       # S, B, L, and DETR R50 and R101
    python benchmarks/eomt.py small --openvino --int8
    python benchmarks/eomt.py --draw                # the plot alone, from what was measured

Random weights, an image of 960 by 1280, on a square of 640 (DETR: 800 by 1066), 15 queries kept,
and no attention masked. All sides begin with the decoded image and end with a map of segments; each
is a process of its own, and they take turns. DETR has no other side here: `inference.py` has one.
`--int8` also tells what the operations of the int8 file took, which is measured apart.
Rows of the same machine, versions and threads stay. The exit code is 1 where a floor does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

import panodetr
from harness.compare import threshold_keeping
from harness.image import SAMPLE, BenchImage
from harness.machine import describe_machine
from harness.ours import Segmenting, run_network
from harness.process import Side, in_fresh_process
from harness.weights import write_random_model
from panodetr.checkpoints.published import Published, find_published
from panodetr.checkpoints.save import save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.export.export import export
from panodetr.files import write_json
from panodetr.model.config import DetrConfig, EomtConfig
from panodetr.model.eomt import Eomt
from panodetr.runtimes.graphs import read_openvino
from panodetr.threads import omp_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.process import Answer, Laps

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
IMAGE = BenchImage(file=SAMPLE, size=(960, 1280))
KEPT = 15
GIB = 1 << 30

MODELS = {
    "small": ("EoMT S", "tue-mps/coco_panoptic_eomt_small_640_2x"),
    "base": ("EoMT B", "tue-mps/coco_panoptic_eomt_base_640_2x"),
    "large": ("EoMT L", "tue-mps/coco_panoptic_eomt_large_640"),
    "detr-r50": ("DETR R50", "facebook/detr-resnet-50-panoptic"),
    "detr-r101": ("DETR R101", "facebook/detr-resnet-101-panoptic"),
}
"""What the tables call them, and the published model of each one's shape and PQ."""

FLOORS = {
    "small": {"faster": 1.6, "memory": 0.5},
    "large": {"faster": 1.05, "above weights": 0.6},
}
"""How many times as fast as transformers at least; at most, which part of its peak, and GiB above
the weights."""

CPU = Path("/proc/cpuinfo")
INT8_FASTER = 3.0 if CPU.exists() and "vnni" in CPU.read_text("utf-8") else 1.8
"""How many times as fast as float32 in PyTorch at least."""


def published(name: str) -> Published:
    """What the catalogue says of a model."""
    found = find_published(MODELS[name][1])
    assert found is not None
    return found


def write_model(folder: Path, name: str) -> None:
    """Write random weights as transformers does."""
    model = published(name)
    shape, rule = model.architecture, model.preprocessing
    if isinstance(shape, DetrConfig):
        write_random_model(folder, shape, BenchImage(file=SAMPLE, size=(800, 1066)), KEPT, rule)
        return
    assert isinstance(shape, EomtConfig)
    torch.manual_seed(0)
    network = Eomt(shape).eval()
    with torch.no_grad():
        network.class_head.weight *= 30  # a fresh one gives every query nearly the same classes
    spec = ModelSpec(
        name=name,
        architecture=shape,
        categories=model.categories,
        preprocessing=rule,
        threshold=0.8,
        overlap=0.8,
    )
    save_pretrained(folder, spec, network, format="huggingface")


class ShapeKept(Segmenting):
    """Ours without a square: the image's shape, to whole patches, with interpolated positions."""

    def __init__(self, source: Path) -> None:
        super().__init__(source, IMAGE)
        spec = self.model.spec
        self.model = self.model.with_rule(replace(spec.preprocessing, multiple=16))
        logits = run_network(self.model, self.image).logits[0]
        self.threshold = threshold_keeping(logits, KEPT)


class Theirs:
    """Their processor, model, and panoptic post-processing."""

    def __init__(self, source: Path, name: str) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        side = published(name).preprocessing.multiple
        size = {"shortest_edge": side, "longest_edge": side}
        self.model = transformers.EomtForUniversalSegmentation.from_pretrained(source).eval()
        self.model.attn_mask_probs.zero_()
        self.processor = transformers.EomtImageProcessorPil(size=size, do_pad=True)
        self.image = IMAGE.pixels()
        self.stuff = [c.index for c in published(name).categories if not c.is_thing]
        self.threshold = threshold_keeping(self.answer()["logits"], KEPT)

    def _call(self) -> Any:
        with torch.inference_mode():
            return self.model(self.processor(self.image, return_tensors="pt")["pixel_values"])

    def run(self) -> Laps:
        start = time.perf_counter()
        outputs = self._call()
        with torch.inference_mode():
            self.processor.post_process_panoptic_segmentation(
                outputs, [IMAGE.size], threshold=self.threshold, stuff_classes=self.stuff
            )
        return {"whole": time.perf_counter() - start}

    def answer(self) -> Answer:
        return {"logits": self._call().class_queries_logits[0].numpy()}


def operations(file: Path) -> dict[str, float]:
    """Milliseconds by kind of operation and precision, of both graphs of an OpenVINO file."""
    import openvino

    spec = panodetr.load(file, device="cpu").spec
    image = np.zeros((1, *(spec.preprocessing.multiple,) * 2, 3), np.uint8)
    given: dict[str, Any] = {"images": image, "padding": np.zeros(image.shape[:3], np.bool_)}
    given["query"] = np.arange(KEPT)
    spent: dict[str, float] = {}
    config = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": omp_threads() or 0}
    with zipfile.ZipFile(file) as archive:
        for part in ("detect", "masks"):
            graph = read_openvino(archive.read(f"{part}.xml"), archive.read(f"{part}.bin"))
            request = openvino.Core().compile_model(graph, "CPU", config).create_infer_request()
            inputs = [given[port.get_any_name()] for port in graph.inputs]
            for _ in range(3):  # of which the last counts
                request.infer(inputs)
            names = [port.get_any_name() for port in graph.outputs]
            given |= {name: request.get_output_tensor(n).data for n, name in enumerate(names)}
            for one in request.get_profiling_info():
                kind = f"{one.node_type} {one.exec_type.rsplit('_', 1)[-1]}"
                spent[kind] = spent.get(kind, 0) + one.real_time.total_seconds() * 1000
    return dict(sorted(spent.items(), key=lambda item: -item[1])[:12])


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure one model: seconds and peaks by side, and whether the floors hold."""
    source = folder / name
    in_fresh_process(partial(write_model, source, name), options.threads)
    jobs: dict[str, Any] = {"torch": partial(Segmenting, source, IMAGE, "torch", KEPT)}
    if isinstance(published(name).architecture, EomtConfig):
        jobs["transformers"] = partial(Theirs, source, name)
        jobs["shape kept"] = partial(ShapeKept, source)
    for kind in ("openvino", "int8"):
        if getattr(options, kind):
            calibration = SAMPLE.parent if kind == "int8" else None
            file = folder / f"{name}-{kind}"
            write = partial(export, source, file, format="openvino", calibration=calibration)
            in_fresh_process(write, options.threads)
            jobs[kind] = partial(Segmenting, file, IMAGE, kept=KEPT)
    found: dict[str, Any] = {"name": name, "what": MODELS[name][0]}
    found |= {"pq": published(name).figures["pq"], "weights": published(name).size}
    sides = {kind: Side(job, options.threads) for kind, job in jobs.items()}
    try:
        seconds: dict[str, list[float]] = {kind: [] for kind in sides}
        for _ in range(options.repeats):
            for kind, side in sides.items():
                seconds[kind].append(side.run()["whole"])
        for kind, side in sides.items():
            median = statistics.median(seconds[kind])
            found[kind] = {"seconds": median, "all": seconds[kind], "peak": side.peak()}
    finally:
        for side in sides.values():
            side.close()
    ours = found["torch"]
    found["above weights"] = (ours["peak"] - found["weights"]) / GIB
    if theirs := found.get("transformers"):
        found["faster"] = theirs["seconds"] / ours["seconds"]
        found["memory"] = ours["peak"] / theirs["peak"]
    floors = dict(FLOORS.get(name, {}))
    if int8 := found.get("int8"):
        found["operations"] = in_fresh_process(
            partial(operations, folder / f"{name}-int8"), options.threads
        )
        found["int8 faster"] = ours["seconds"] / int8["seconds"]
        floors["int8 faster"] = INT8_FASTER
    found["floors"] = floors
    found["holds"] = all(
        found[key] >= floor if "faster" in key else found[key] <= floor
        for key, floor in floors.items()
    )
    return found


def draw(rows: Sequence[dict[str, Any]], about: str) -> Figure:
    """Published PQ over seconds an image: a line for each family and what runs it."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for family in dict.fromkeys(row["what"].split()[0] for row in rows):
        own = [row for row in rows if row["what"].startswith(family)]
        for kind, label in (("torch", "PyTorch"), ("openvino", "OpenVINO")):
            shown = [(row[kind]["seconds"], row["pq"], row["what"]) for row in own if kind in row]
            if not shown:
                continue
            x, y, _ = zip(*shown, strict=True)
            axes.plot(x, y, "o-" if kind == "torch" else "s--", label=f"{family}, {label}")
            for at, pq, name in shown if kind == "torch" else ():
                axes.annotate(name, (at, pq), (6, -12), textcoords="offset points")
    axes.set(xlabel=f"seconds an image ({about})", ylabel="published PQ, COCO val2017")
    axes.set(xscale="log", xmargin=0.15, ymargin=0.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"all of {', '.join(MODELS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--openvino", action="store_true")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--draw", action="store_true", help="only draw what was measured")
    parser.add_argument("--out", type=Path, default=OUT, help="where which-model.json and .png go")
    options = parser.parse_args()
    if unknown := set(options.models).difference(MODELS):
        parser.error(f"there is no model {unknown.pop()!r}; expected some of {', '.join(MODELS)}")
    file = options.out / "which-model.json"
    report: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    models = [] if options.draw else options.models or list(MODELS)
    if models:
        machine = describe_machine()
        before = {**report.get("machine", {}), "date": machine["date"]}
        same = before == machine and report["threads"] == options.threads
        rows = report["rows"] if same else []
        report = {"machine": machine, "threads": options.threads, "rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            row = measure(name, options, Path(folder))
            print(json.dumps(row), flush=True)
            rows = {one["name"]: one for one in report["rows"]} | {name: row}
            report["rows"] = [rows[name] for name in MODELS if name in rows]
            write_json(file, report)
    machine = report["machine"]
    about = f"{machine['processor']}, {report['threads']} threads"
    draw(report["rows"], about).savefig(file.with_suffix(".png"), dpi=100)
    return 0 if all(row["holds"] for row in report["rows"] if row["name"] in models) else 1


if __name__ == "__main__":
    sys.exit(main())
