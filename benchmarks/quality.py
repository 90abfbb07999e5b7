"""How well the bundled model does on images that it was not trained on: the README's first table.

    python benchmarks/quality.py --data ../shared/data/nuclei

The figures of `panodetr eval --model nuclei --data FOLDER --split val --task panoptic`, kept with
machine and versions, and the same by kind of image. The ten images with the lowest thing PQ are
drawn, predictions on the left, ground truth on the right: quality-worst.jpg. `watershed.py` is what
the model must beat. Thresholds are compared on images of train, by `--split train --every 12
--threshold 0.6 --out FOLDER`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from operator import itemgetter
from pathlib import Path

import numpy as np

import panodetr
from harness.machine import describe_machine
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.samples import Sample, read_sample
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.ground_truth import GroundTruth, TruthImage
from panodetr.evaluation.metrics import Counts, metrics
from panodetr.evaluation.panoptic_quality import ClassQuality
from panodetr.files import write_json, write_picture
from panodetr.training.recorder import draw_validation

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
SMALL = 300
"""Pixels: the median area of an image's nuclei below which they are small."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--every", type=int, default=1, help="1: each image; 3: each third one")
    parser.add_argument("--threshold", type=float, help="of scores; by default the model's own")
    parser.add_argument("--out", type=Path, default=OUT, help="where quality.json goes")
    options = parser.parse_args()

    truth = GroundTruth.open(options.data, options.split)
    truth = replace(truth, images=truth.images[:: options.every])
    model = panodetr.load(options.model, device="cpu")
    total = Counts(truth, ("panoptic",))
    total.seconds = 0.0
    kinds: dict[str, Counts] = {}
    found: list[tuple[float, TruthImage]] = []
    for number, image in enumerate(truth.images, start=1):
        counts = evaluate(
            model, replace(truth, images=(image,)), ("panoptic",), threshold=options.threshold
        )
        found.append((_nuclei(counts).pq, image))
        kinds.setdefault(_kind(image), Counts(truth, ("panoptic",))).merge(counts)
        total.merge(counts)
        _tell(number, len(truth.images))
    figures = metrics(total.compute(), total.seconds)
    report = {
        "machine": describe_machine(),
        "model": options.model,
        "split": options.split,
        "images": len(truth.images),
        "things": [category.name for category in truth.segment_categories if category.is_thing],
        "figures": figures,
        "kinds": {
            kind: {"images": counts.compute().images, **asdict(_nuclei(counts))}
            for kind, counts in sorted(kinds.items())
        },
    }
    write_json(options.out / "quality.json", report)
    print(f"{len(truth.images)} images of {options.split}: thing PQ {figures['pq_things']:.3f}")
    worst = [image for _, image in sorted(found, key=itemgetter(0))[:10]]
    picture = draw_validation(model, replace(truth, images=tuple(worst)), len(worst))
    picture.thumbnail((1200, 10_000))
    write_picture(options.out / "quality-worst.jpg", picture.convert("RGB"), quality=80)


def _nuclei(counts: Counts) -> ClassQuality:
    panoptic = counts.compute().panoptic
    assert panoptic is not None
    return panoptic.per_class["nucleus"]


def _kind(image: TruthImage) -> str:
    """Say what kind of micrograph an image is: by its colours, and by the area of its nuclei."""
    assert isinstance(image, Sample)
    pixels = read_sample(image).astype(np.int16)
    if np.mean(pixels.max(2) - pixels.min(2)) > 5:
        return "stained tissue"
    if np.median(pixels) > 127:
        return "bright field"
    ids = read_ids(image)
    areas = [np.count_nonzero(ids == s.id) for s in image.segments if s.category_id == 1]
    return f"fluorescence, {'small' if np.median(areas) < SMALL else 'large'} nuclei"


def _tell(done: int, count: int) -> None:
    print(f"\r{done} of {count}", end="" if done < count else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
