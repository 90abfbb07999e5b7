"""How near the machine's rate each part of a segmentation runs: GFLOP, GB, time, share of peak.

    python benchmarks/roofline.py

ResNet-101 panoptic in PyTorch, an input of 800 by 1066, masks of 15 queries, random weights. A
part's bytes are what its operations read and write, as if none stayed in the processor's cache, and
its operations are those of `torch.utils.flop_counter`. The machine's rates are measured: a product
of large matrices, and a copy of a large tensor. A part that took as long as the slower of its
arithmetic and its bytes do at these rates would have a share of 100 %; more says that the cache
serves it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harness.machine import describe_machine
from panodetr.files import write_json
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import RESNET101, DetrConfig
from panodetr.model.detr import Detr
from panodetr.runtimes.torch import TorchRuntime, compute_masks

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
SIZE, KEPT = (800, 1066), 15


class Bytes(TorchDispatchMode):
    """Counts what every operation reads and writes; a view moves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        read = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        places = {one.data_ptr() for one in read}
        written = [one for one in tree_leaves(found) if isinstance(one, Tensor)]
        if any(one.data_ptr() not in places for one in written):
            self.moved += sum(one.nbytes for one in (*read, *written))
        return found


def main() -> None:
    """Measure every part, and write and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=OUT, help="where roofline.json goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        gflops, gigabytes = machine_rates(options.rounds)
        rows = [measure(name, run, options.rounds) for name, run in parts().items()]
    for row in rows:
        least = max(row["gflop"] / gflops, row["gb"] / gigabytes)
        row["share"] = least / row["seconds"]
        print(
            f"{row['part']}: {row['gflop']:.1f} GFLOP, {row['gb']:.2f} GB, "
            f"{row['seconds'] * 1000:.0f} ms, {row['share']:.0%} of peak"
        )
    report = {
        "machine": describe_machine(), "threads": options.threads, "rounds": options.rounds,
        "gflops": gflops, "gb_a_second": gigabytes, "rows": rows,
    }  # fmt: skip
    write_json(options.out / "roofline.json", report)


def machine_rates(rounds: int) -> tuple[float, float]:
    """GFLOP a second of float32 products, and GB a second of copies, each way counted."""
    a, b = torch.rand(2, 2048, 2048)
    large = torch.rand(1 << 26)
    target = torch.empty_like(large)
    product = min(timed(lambda: torch.mm(a, b)) for _ in range(rounds))
    copy = min(timed(lambda: target.copy_(large)) for _ in range(rounds))
    return 2 * 2048**3 / product / 1e9, 2 * large.nbytes / copy / 1e9


def parts() -> dict[str, Callable[[], Any]]:
    """The network's parts in their order, each on what the ones before it gave."""
    torch.manual_seed(0)
    network = Detr(DetrConfig(backbone=RESNET101, num_classes=250, masks=True))
    for module in network.modules():  # activations keep their size through the layers
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    model = TorchRuntime(network, Preprocessing(), torch.device("cpu")).model
    assert isinstance(model, Detr)
    pixels = torch.randn(1, 3, *SIZE).to(memory_format=torch.channels_last)
    encoded = model.encode(pixels)
    states = model.decode(encoded)[-1]
    tokens, places = (
        maps.flatten(2).transpose(1, 2) for maps in (encoded.projected, encoded.positions)
    )
    image, query = torch.zeros(KEPT, dtype=torch.int64), torch.arange(KEPT)
    return {
        "backbone": lambda: model.backbone(pixels),
        "encoder": lambda: model.encoder(tokens, places, None),
        "decoder": lambda: model.decode(encoded),
        f"masks of {KEPT} queries": lambda: compute_masks(model, encoded, states, image, query),
        "network": lambda: compute_masks(
            model, again := model.encode(pixels), model.decode(again)[-1], image, query
        ),
    }


def measure(name: str, run: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Time a part, and count its operations and bytes."""
    with FlopCounterMode(display=False) as flops, Bytes() as moved:
        run()
    return {
        "part": name,
        "gflop": flops.get_total_flops() / 1e9,
        "gb": moved.moved / 1e9,
        "seconds": statistics.median(timed(run) for _ in range(rounds)),
    }


def timed(run: Callable[[], Any]) -> float:
    """Give the seconds that something takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
