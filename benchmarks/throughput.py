"""Speed of `panodetr detect FOLDER`, from image files to result files, beside its network alone.

    python benchmarks/throughput.py --data ../shared/data/coco-instances/images --images 2000

The images of a folder, repeated until there are enough, go through a ResNet-50 detector with random
weights, at a short side of 256 pixels; about 15 objects of each are kept. The command is a process
of its own; its start and the loading of its model are not timed. The network alone gets the same
batches, prepared before. Both are measured in alternation, so that other load on the machine falls
on both. The exit code is 1 where the command has less than --least of the
network's speed, or where its memory grows by more than --growth from a quarter of the images to the
last.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

import panodetr
from harness.image import BenchImage, link_images
from harness.machine import describe_machine
from harness.weights import RandomModel, write_random_model
from panodetr.images.preprocess import Preprocessing
from panodetr.images.views import BATCH_PIXELS, read_tiled, view_batches
from panodetr.model.config import DetrConfig

RULE = Preprocessing(short_side=256, long_side=427)
KEPT = 15
SKIPPED = 20
"""Images at the start of a run that are not timed: the warm-up."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--least", type=float, default=0.9)
    parser.add_argument("--growth", type=float, default=30, help="MiB")
    options = parser.parse_args()

    each = options.images // options.turns
    network, command = list[float](), list[float]()
    growth: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        size = BenchImage(file=next(iter(options.data.iterdir())), size=(256, 341))
        model = write_random_model(folder / "model", DetrConfig(num_classes=91), size, KEPT, RULE)
        links = link_images(options.data, folder / "images", range(each))
        batches = prepare(links[: min(each, 200)])
        for turn in range(options.turns):
            network.append(run_network(model, batches, each))
            seconds, memory = run_command(model, folder, each, turn)
            command.append(seconds)
            growth.append(memory[-1] - memory[len(memory) // 4])
    ours, alone = each * options.turns / sum(command), each * options.turns / sum(network)
    machine = describe_machine()
    print(f"{machine['date']}, {machine['processor']}, {machine['cores']} cores")
    print(f"{each * options.turns} images, the network sees a short side of {RULE.short_side}")
    print(f"network alone: {alone:.1f} images/s; files to files: {ours:.1f} images/s")
    print(f"share: {ours / alone:.0%} (at least {options.least:.0%})")
    print(f"memory: {max(growth):+.0f} MiB from a quarter of a run to its end")
    return 1 if ours / alone < options.least or max(growth) > options.growth else 0


def prepare(images: list[Path]) -> list[NDArray[np.uint8]]:
    """Make the batches that the command makes: views of equal size of the images of a batch."""
    batches: list[NDArray[np.uint8]] = []
    waiting, pixels = [], 0
    for image in images:
        waiting.append(read_tiled(image, RULE))
        pixels += waiting[-1].size[0] * waiting[-1].size[1]
        if pixels >= BATCH_PIXELS:
            batches += [
                np.stack([v.pixels for v in views]) for views in view_batches(waiting, RULE)
            ]
            waiting, pixels = [], 0
    return batches


def run_network(model: RandomModel, batches: list[NDArray[np.uint8]], images: int) -> float:
    """Run the network until it has seen so many images, and give the seconds."""
    predictor = panodetr.load(str(model.folder), device="cpu")
    predictor.runtime.detect(batches[0], None)
    began, seen = time.perf_counter(), 0
    for batch in cycle(batches):
        found = predictor.runtime.detect(batch, None)
        assert len(found.logits) == len(batch)
        seen += len(batch)
        if seen >= images:
            break
    return (time.perf_counter() - began) * images / seen


def run_command(
    model: RandomModel, folder: Path, images: int, turn: int
) -> tuple[float, list[float]]:
    """Run the command, and give seconds for so many images, and its memory over time in MiB."""
    out = folder / f"out{turn}"
    arguments = ["detect", str(folder / "images"), "--model", str(model.folder), "--out", str(out)]
    arguments += ["--threshold", str(model.threshold), "--quiet", "--device", "cpu"]
    process = psutil.Popen([sys.executable, "-m", "panodetr", *arguments])
    memory: list[float] = []
    while process.poll() is None:
        if out.exists():  # the model is loaded
            memory.append(process.memory_info().rss / 2**20)
        time.sleep(0.25)
    assert process.returncode == 0
    times = sorted(path.stat().st_mtime for path in out.glob("*.json"))
    assert len(times) == images
    return (times[-1] - times[SKIPPED]) * images / (images - 1 - SKIPPED), memory


if __name__ == "__main__":
    sys.exit(main())
