"""How fast evaluating is, against pycocotools, against hotcoco from files, and beside the model.

    python benchmarks/evaluation.py            # all parts, each in a process of its own
    python benchmarks/evaluation.py boxes      # one of them

Times are of the processor, one thread, both sides in one process; the peak is the process's.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(os.environ.get("PANODETR_DATA", Path(__file__).parents[2] / "shared" / "data"))
REPEATS = 3  # of 158 images
DETECTIONS = 100  # an image, as DETR gives
ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}


def average_precision(task: str) -> None:
    """Handing the results over, matching and accumulating.

    Ours are handed over image by image, which is timed apart by updates without any truth. As DETR
    answers: 100 detections an image, some around each truth, the others of any class.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from panodetr.evaluation.average_precision import AveragePrecision, Overlap
    from panodetr.evaluation.ground_truth import GroundTruth

    kind: Overlap = "bbox" if task == "boxes" else "segm"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder, "instances.json")
        file.write_text(json.dumps(_repeated()))
        truth = GroundTruth.read(file)
        reference = COCO(str(file))
    categories = [category.id for category in truth.object_categories]
    results = [_noisy(image, reference, kind, categories) for image in truth.images]

    def ours(with_truth: bool) -> AveragePrecision:
        counter = AveragePrecision(truth.object_categories, kind)
        for image, own in zip(truth.images, results, strict=True):
            objects = (image.objects or ()) if with_truth else ()
            counter.update(image.image_id, image.size, objects, own)
        return counter

    def load() -> COCOeval:
        everything: Any = [dict(result) for own in results for result in own]
        return COCOeval(reference, reference.loadRes(everything), kind)

    def match(loaded: COCOeval) -> Any:
        loaded.evaluate()
        loaded.accumulate()
        return loaded.eval["precision"][..., 0, 2]

    handed, _ = _timed(lambda: ours(with_truth=False), 3)
    seconds, found = _timed(lambda: ours(with_truth=True).compute().counted, 3)
    with contextlib.redirect_stdout(io.StringIO()):
        their_load, loaded = _timed(load, 1)
        theirs, expected = _timed(lambda: match(loaded), 1)
    assert np.array_equal((found.eval or {})["precision"][..., 0, 2], expected)
    count = sum(len(own) for own in results)
    print(
        f"AP of {task}, {len(truth.images)} images, {count:,} detections: {seconds:.2f} s, of "
        f"which handing over {handed:.2f} s; pycocotools {their_load:.2f} s to load, "
        f"{theirs:.2f} s to evaluate and accumulate; x{theirs / (seconds - handed):.0f} for that, "
        f"x{(their_load + theirs) / seconds:.0f} in all, the same bits; {_peak()}"
    )


def _repeated() -> dict[str, Any]:
    """The images of coco-instances several times over."""
    document = json.loads((DATA / "coco-instances" / "instances.json").read_text())
    images: list[Any] = []
    annotations: list[Any] = []
    for number in range(REPEATS):
        shift = number * 10**7
        images += [{**image, "id": image["id"] + shift} for image in document["images"]]
        annotations += [
            {**a, "id": a["id"] + number * 10**13, "image_id": a["image_id"] + shift}
            for a in document["annotations"]
        ]
    return {**document, "images": images, "annotations": annotations}


def _noisy(image: Any, reference: Any, kind: str, categories: list[int]) -> list[Any]:
    """Three detections around each truth, the rest there too, of any class and with low scores."""
    from panodetr.data.masks import encode_pixels

    rng = np.random.default_rng(image.image_id)
    truths = image.objects
    masks: list[Any] = []
    if kind == "segm":
        for truth in truths:
            pixels = reference.annToMask(reference.anns[truth["id"]])
            masks.append(encode_pixels(np.roll(pixels, 3, (0, 1)).astype(np.bool_)))
    found: list[Any] = []
    for number in range(DETECTIONS if truths else 0):
        row = number % len(truths)
        good = number < 3 * len(truths)
        result = {
            "image_id": image.image_id,
            "category_id": truths[row]["category_id"] if good else int(rng.choice(categories)),
            "score": float(rng.random()) if good else float(rng.random()) / 10,
        }
        if masks:
            found.append({**result, "segmentation": masks[row]})
        else:
            x, y, width, height = np.array(truths[row]["bbox"]) + rng.normal(0, 4, 4)
            found.append({**result, "bbox": [x, y, max(width, 1.0), max(height, 1.0)]})
    return found


def panoptic() -> None:
    """Counting id maps in memory, as during training, and from files."""
    from hotcoco.panoptic import PanopticEval

    from panodetr.data.formats.coco_panoptic import read_ids
    from panodetr.data.samples import Sample
    from panodetr.evaluation.evaluate import score
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.evaluation.panoptic_quality import PanopticQuality

    file = DATA / "golden" / "panoptic-eval" / "panoptic.json"
    truth_file = DATA / "coco-panoptic" / "panoptic.json"
    truth = GroundTruth.read(truth_file)
    inputs = _id_maps(truth, file)
    truths = [(read_ids(i), i.segments) for i in truth.images if isinstance(i, Sample)]

    def in_memory() -> float:
        quality = PanopticQuality(truth.segment_categories)
        for (ids, segments), (predicted, found) in zip(truths, inputs, strict=True):
            quality.update(ids, segments, predicted, found)
        return quality.compute().all.pq

    def hotcoco() -> float:
        counted = PanopticEval(str(truth_file), str(file))
        counted.evaluate()
        return counted.results()["All"]["pq"]

    def from_files() -> float:
        figures = score(file, truth).compute().panoptic
        assert figures is not None
        return figures.all.pq

    milliseconds: dict[str, float] = {}
    values: list[float] = []
    for name, run in (("in memory", in_memory), ("hotcoco", hotcoco), ("files", from_files)):
        seconds, value = _timed(run, 10)
        milliseconds[name] = 1000 * seconds / len(truth.images)
        values.append(value)
    assert np.ptp(values) < 1e-14
    print(
        f"PQ, {len(truth.images)} images: {milliseconds['in memory']:.1f} ms an image in memory, "
        f"hotcoco from files {milliseconds['hotcoco']:.1f} ms "
        f"(x{milliseconds['hotcoco'] / milliseconds['in memory']:.1f}), ours from files "
        f"{milliseconds['files']:.1f} ms; {_peak()}"
    )


def _id_maps(truth: Any, file: Path) -> list[Any]:
    from panodetr.data.masks import read_id_map
    from panodetr.data.samples import GroundTruthSegment

    annotations = {a["image_id"]: a for a in json.loads(file.read_text())["annotations"]}
    found: list[Any] = []
    for image in truth.images:
        own = annotations[image.image_id]
        segments = [
            GroundTruthSegment(id=s["id"], category_id=s["category_id"], area=0, is_crowd=False)
            for s in own["segments_info"]
        ]
        ids = read_id_map(file.with_suffix("") / own["file_name"], image.size)
        found.append((ids, segments))
    return found


def beside_the_model() -> None:
    """What evaluating adds to predicting: DETR R50 with masks, images at 800 pixels a side."""
    from dataclasses import replace

    import torch

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.evaluation.evaluate import evaluate
    from panodetr.evaluation.ground_truth import TASKS, GroundTruth
    from panodetr.model.config import COCO_PANOPTIC_CLASSES, DetrConfig
    from panodetr.model.detr import Detr
    from panodetr.predict import Predictor
    from panodetr.runtimes.torch import TorchRuntime

    torch.set_num_threads(1)
    truth = GroundTruth.open(DATA / "coco-panoptic", "")
    truth = replace(truth, images=truth.images[:3])
    torch.manual_seed(0)
    architecture = DetrConfig(num_classes=COCO_PANOPTIC_CLASSES, masks=True)
    categories = tuple(replace(c, index=c.id) for c in truth.segment_categories)
    spec = ModelSpec(name="random", architecture=architecture, categories=categories, threshold=0.0)
    model = Predictor(
        spec, TorchRuntime(Detr(architecture), spec.preprocessing, torch.device("cpu"))
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        predicting = evaluate(model, truth, TASKS, out=Path(folder)).seconds or 0
        seconds = time.perf_counter() - start
    added = seconds - predicting
    print(
        f"Boxes, masks and PQ of {len(truth.images)} images: the model "
        f"{predicting / len(truth.images):.1f} s an image, evaluating "
        f"+{100 * added / predicting:.1f} %; {_peak()}"
    )


def _timed(run: Callable[[], Any], times: int) -> tuple[float, Any]:
    """Give the best of some runs, in seconds of the processor, and what it returned."""
    best, value = float("inf"), None
    for _ in range(times):
        start = time.process_time()
        value = run()
        best = min(best, time.process_time() - start)
    return best, value


def _peak() -> str:
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"


PARTS: dict[str, Callable[[], None]] = {
    "boxes": lambda: average_precision("boxes"),
    "instances": lambda: average_precision("instances"),
    "panoptic": panoptic,
    "model": beside_the_model,
}

if __name__ == "__main__":
    for part in sys.argv[1:]:
        PARTS[part]()
    if not sys.argv[1:]:
        for part in PARTS:
            command = [sys.executable, __file__, part]
            subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD})
