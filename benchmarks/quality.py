"""How well the bundled model does on images that it was not trained on: the README's first table.

    python benchmarks/quality.py --data ../shared/data/nuclei

The figures of `panodetr eval --model nuclei --data FOLDER --split val --task panoptic`, kept with
machine and versions. `watershed.py` is what the model must beat.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.agreement import first_images
from harness.machine import describe_machine
from harness.ours import open_model
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.evaluation.metrics import metrics
from panodetr.files import write_json

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, help="at most so many")
    parser.add_argument("--out", type=Path, default=OUT, help="where quality.json goes")
    options = parser.parse_args()

    truth = first_images(GroundTruth.open(options.data, options.split), options.images)
    counts = evaluate(open_model(options.model), truth, ("panoptic",), progress=_tell)
    figures = metrics(counts.compute(), counts.seconds)
    report = {
        "machine": describe_machine(),
        "model": options.model,
        "split": options.split,
        "images": len(truth.images),
        "things": [category.name for category in truth.segment_categories if category.is_thing],
        "figures": figures,
    }
    write_json(options.out / "quality.json", report)
    print(f"{len(truth.images)} images of {options.split}: thing PQ {figures['pq_things']:.3f}")


def _tell(done: int, count: int) -> None:
    print(f"\r{done} of {count}", end="" if done < count else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
