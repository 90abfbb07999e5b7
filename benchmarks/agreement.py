"""How near a runtime comes to PyTorch in float32, on the images of nuclei/val.

    python benchmarks/agreement.py int8 --data ../shared/data/nuclei
    python benchmarks/agreement.py bf16 --data ../shared/data/nuclei
    python benchmarks/agreement.py openvino --data ../shared/data/nuclei --images 20

Of every query that PyTorch keeps: whether it has the same class, and how far its box and its mask
overlap with themselves. And the panoptic quality of both.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import panodetr
from harness.agreement import agree, first_images
from harness.compare import describe
from harness.machine import describe_machine
from harness.rows import Scale
from harness.run import Workshop
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.files import write_json
from panodetr.predict import Predictor
from panodetr.runtimes.base import RuntimeName

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
RUNTIMES: dict[str, RuntimeName] = {"openvino": "openvino", "onnx": "onnx"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("int8", "bf16", *RUNTIMES))
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, help="at most so many")
    parser.add_argument("--out", type=Path, default=OUT, help="where agreement-NAME.json goes")
    options = parser.parse_args()

    truth = first_images(GroundTruth.open(options.data, "val"), options.images)
    with tempfile.TemporaryDirectory() as folder:
        other = _other(options.name, options.model, options.data, Path(folder))
        figures = agree(panodetr.load(options.model, device="cpu"), other, truth, _tell)
    report = {
        "machine": describe_machine(),
        "model": options.model,
        "runtime": options.name,
        "images": len(truth.images),
        "figures": figures,
    }
    write_json(options.out / f"agreement-{options.name}.json", report)
    print(
        f"{options.model}, {options.name} against PyTorch float32, {len(truth.images)} images, "
        f"{figures['queries']:.0f} kept queries: {describe(figures)}; "
        f"PQ {100 * figures['reference_pq']:.2f} and {100 * figures['pq']:.2f}"
    )


def _other(name: str, model: str, data: Path, folder: Path) -> Predictor:
    if name == "bf16":
        return panodetr.load(model, device="cpu", precision="bfloat16")
    if name in RUNTIMES:
        return panodetr.load(model, device="cpu", runtime=RUNTIMES[name])
    int8 = Workshop(folder, Scale(), threads=2).int8(model, data / "train")
    return panodetr.load(int8, device="cpu")


def _tell(done: int, count: int) -> None:
    print(f"\r{done} of {count}", end="" if done < count else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
