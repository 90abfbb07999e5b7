"""What `--engine ray` costs beside plain processes, and what 100 million images would cost.

    python benchmarks/scale.py --data ../shared/data/coco-instances

The images of --data are repeated, and go through a ResNet-50 detector with random weights, at a
short side of 256 pixels, with one thread per worker. First as many processes of --engine local as
there are workers run at the same time, each with its share of the images. Then --engine ray runs on
a cluster of as many nodes on this machine, each with one worker. Both times include the start of
Python and the loading of the model, but not the start of the cluster. The exit code is 1 where ray
takes --most per cent longer, or where a row differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet

from harness.image import SAMPLE, BenchImage, link_images
from harness.machine import describe_machine
from harness.weights import write_random_model
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import DetrConfig

SIDE = 256
MANY = 100_000_000


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--part-size", type=int, default=50)
    parser.add_argument("--most", type=float, default=10, help="per cent")
    parser.add_argument("--price", type=float, default=0.04, help="of a core for an hour, dollars")
    parser.add_argument("--limit", type=float, default=900, help="seconds of each run")
    options = parser.parse_args()

    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="panodetr-scale-") as name:
        folder = Path(name)
        rule = Preprocessing(short_side=SIDE, long_side=2 * SIDE)
        image = BenchImage(file=SAMPLE, size=(SIDE, SIDE))
        model = write_random_model(folder / "r50", DetrConfig(num_classes=91), image, 10, rule)
        shares = [folder / "images" / str(number) for number in range(options.workers)]
        for number, share in enumerate(shares):
            link_images(options.data, share, range(number, options.images, options.workers))
        some = 0.85 * model.threshold  # keeps about as many queries in images of other sizes
        command = ["--model", str(model.folder), "--threshold", str(some)]
        command += ["--device", "cpu", "--part-size", str(options.part_size), "--quiet"]
        outs = [folder / "local" / share.name for share in shares]
        alone = run(
            [
                ["detect", str(share), *command, "--engine", "local", "--out", str(out)]
                for share, out in zip(shares, outs, strict=True)
            ],
            options.limit,
        )
        out = folder / "ray"
        inputs = ["detect", *map(str, shares), *command, "--engine", "ray", "--out", str(out)]
        shared = run_on_nodes(inputs, options.workers, options.limit)
        same = rows(outs) == rows([out])
    overhead = 100 * (shared / alone - 1)
    rate = options.images / shared
    hours = MANY / (rate / options.workers) / 3600
    report = {
        "machine": describe_machine(),
        "images": options.images,
        "workers": options.workers,
        "local_seconds": round(alone, 1),
        "ray_seconds": round(shared, 1),
        "overhead_percent": round(overhead, 1),
        "same_rows": same,
        "ray_images_per_second_and_core": round(rate / options.workers, 2),
        "core_hours_of_100_million": round(hours),
        "dollars_of_100_million": round(hours * options.price),
        "dollars_a_core_hour": options.price,
    }
    print(json.dumps(report, indent=2))
    return 0 if same and overhead <= options.most else 1


def run(commands: list[list[str]], limit: float) -> float:
    """Run commands at the same time, and give the seconds until the last one ends."""
    began = time.perf_counter()
    running = [subprocess.Popen([sys.executable, "-m", "panodetr", *words]) for words in commands]
    try:
        for process in running:
            if process.wait(timeout=limit):
                raise SystemExit(f"a run ended with exit code {process.returncode}")
    finally:
        for process in running:
            process.kill()
    return time.perf_counter() - began


def run_on_nodes(words: list[str], nodes: int, limit: float) -> float:
    """Run a command on a cluster of nodes on this machine, and give its seconds."""
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**node)
        return run([[*words, "--address", cluster.address]], limit)
    finally:
        cluster.shutdown()


def rows(outs: list[Path]) -> list[dict[str, Any]]:
    """Read the rows in folders of parts, by image, without their times."""
    parts = [part for out in outs for part in sorted(out.glob("part-*.parquet"))]
    read = [pyarrow.parquet.read_table(part).drop_columns("seconds").to_pylist() for part in parts]
    return sorted((row for part in read for row in part), key=lambda row: row["id"])


if __name__ == "__main__":
    sys.exit(main())
