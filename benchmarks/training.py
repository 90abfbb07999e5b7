"""What a training step costs, beside the original's way and beside transformers.

    python benchmarks/training.py                       # all sides, three rounds; kept as JSON
    python benchmarks/training.py ours original --rounds 1 --name again

One image of 512 by 512 pixels with 12 objects, ResNet-50, 250 classes, 100 queries, random weights,
float32; a step is forward, matching, losses, backward and update. Every run is a fresh process that
does one step to warm up and then as many as asked for. The sides take turns, so that whatever else
the machine does falls on all of them. Ratios are of medians, by the clock and of processor time,
which other work on the machine disturbs less; a process's peak memory is its own. The exit code is
1 where a floor is not reached; everything is measured and written.

- ours, ours-masks: the joint step, and the mask head alone on a frozen rest (stage 2).
- original, original-masks: the same with masks for all 100 queries, each from a copy of the
  features through all five convolutions, in the default memory layout, as the original makes them;
  the rest is our code. The loss is the same.
- transformers: `DetrForSegmentation`, its backbone's last three stages learned as in the paper, its
  auxiliary losses on. Needs transformers (panodetr[dev]).
- compat: the same code with the class of this name in `panodetr.compat`, which must keep half of
  what ours is ahead of transformers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from harness.machine import describe_machine
from harness.process import Answer, Laps, Side
from panodetr.files import write_json
from tables import training_table

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
OBJECTS, CLASSES, QUERIES = 12, 250, 100
JOINT = ("ours", "original", "compat", "transformers")
STAGE = ("ours-masks", "original-masks")
FLOORS = {"original": {"time": 3.0}, "transformers": {"time": 6.0, "memory": 4.0}}

MOST = {"compat": {"time": 2.0, "memory": 2.0}}

Step = Callable[[], float]  # does one step and gives its loss


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sides", nargs="*", metavar="SIDE", help=", ".join((*JOINT, *STAGE)))
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes a side")
    parser.add_argument("--steps", type=int, default=2, help="timed steps a process")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", type=int, default=512, help="pixels of the image's sides")
    parser.add_argument("--name", default="training", help="of the JSON file")
    parser.add_argument("--out", type=Path, default=OUT, help="where it goes")
    options = parser.parse_args()
    sides = options.sides or [*JOINT, *STAGE]
    unknown = set(sides) - {*JOINT, *STAGE}
    if unknown:
        parser.error(f"no such side: {', '.join(sorted(unknown))}")
    settings = {name: getattr(options, name) for name in ("steps", "threads", "size")}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side in sides:
            print(f"{side}: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            runs[side].append(measure(side, **settings))
    rows = [summary(side, runs) for side in sides]
    report = {"machine": describe_machine(), "rounds": options.rounds, **settings, "rows": rows}
    write_json(options.out / f"{options.name}.json", report)
    print(training_table(report))
    return 0 if all(row["holds"] for row in rows) else 1


class Stepping:
    """Steps of a side, of which the first warms up and gives the loss that all begin at."""

    def __init__(self, side: str, size: int) -> None:
        self.step = SIDES[side](size)

    def run(self) -> Laps:
        """One step: seconds by the clock, and of the processors."""
        start, start_busy = time.perf_counter(), time.process_time()
        self.step()
        seconds, busy = time.perf_counter() - start, time.process_time() - start_busy
        return {"seconds": seconds, "busy": busy}

    def answer(self) -> Answer:
        """One step, and its loss."""
        torch.manual_seed(1)
        return {"loss": np.array(self.step())}


def measure(name: str, steps: int, threads: int, size: int) -> dict[str, Any]:
    """Seconds of each step, by the clock and of the processors, its loss, and the peak in bytes."""
    with Side(partial(Stepping, name, size), threads) as side:
        loss = float(side.answer()["loss"])
        laps = [side.run() for _ in range(steps)]
        found = {kind: [lap[kind] for lap in laps] for kind in ("seconds", "busy")}
        return {**found, "loss": loss, "peak": side.peak()}


def summary(side: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A side's figures, and what they are times those of ours, where ours was measured."""
    row: dict[str, Any] = {"side": side, **figures(runs[side]), "runs": runs[side]}
    base = "ours-masks" if side in STAGE else "ours"
    floors = FLOORS.get(side, {})
    row |= {"base": base, "floors": floors, "ratios": {}, "holds": True}
    if base in runs and base != side:
        own = figures(runs[base])
        ratios = {
            name: row[key] / own[key]
            for name, key in (("time", "seconds"), ("cpu", "busy"), ("memory", "peak_bytes"))
        }
        row["ratios"] = ratios
        row["holds"] = all(ratios[name] >= floor for name, floor in floors.items()) and all(
            ratios[name] <= most for name, most in MOST.get(side, {}).items()
        )
    return row


def figures(found: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over all steps of all processes, the largest peak, and the loss that all begin at."""
    seconds, busy = (
        statistics.median(second for run in found for second in run[kind])
        for kind in ("seconds", "busy")
    )
    peak = max(run["peak"] for run in found)
    return {"seconds": seconds, "busy": busy, "peak_bytes": peak, "loss": found[0]["loss"]}


def scene(
    size: int, images: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (B, 3, H, W); of each 12 objects, classes, boxes cxcywh, map of places (1, H, W)."""
    torch.manual_seed(0)
    pixels = torch.randn(images, 3, size, size)
    index_map = torch.zeros(1, size, size, dtype=torch.int16)
    boxes: list[list[float]] = []
    height, width = size // 3, size // 4
    for number in range(OBJECTS):
        y, x = number // 4 * height + 8, number % 4 * width + 8
        index_map[0, y : y + height - 16, x : x + width - 16] = number + 1
        box = (x + width / 2 - 8, y + height / 2 - 8, width - 16, height - 16)
        boxes.append([value / size for value in box])
    return pixels, torch.arange(OBJECTS) * 7 + 1, torch.tensor(boxes), index_map


def prepare_ours(
    size: int, *, learned: str, every_mask: bool, images: int = 1, device: str = "cpu",
    half: bool = False,
) -> Step:  # fmt: skip
    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.data.augment import PaperAugmentation
    from panodetr.model.config import DetrConfig
    from panodetr.model.detr import Detr
    from panodetr.objective.auxiliary import AuxiliaryHeads
    from panodetr.objective.criterion import compute_losses
    from panodetr.objective.targets import Batch, Targets
    from panodetr.results.types import Category
    from panodetr.training.config import TrainConfig
    from panodetr.training.optimizer import freeze, make_optimizer

    pixels, classes, boxes, index_map = scene(size, images)
    category = Category(index=0, id=0, name="any", is_thing=True, color=(0, 0, 0))
    config = TrainConfig(
        spec=ModelSpec(
            name="step",
            architecture=DetrConfig(num_classes=CLASSES, masks=True),
            categories=(category,),
        ),
        augmentation=PaperAugmentation(),
        frozen_stages=1,
        steps=1,
        batch_size=images,
        learned="masks" if learned == "masks" else "all",
    )
    targets = Targets(
        classes=classes.repeat(images), boxes=boxes.repeat(images, 1), counts=(OBJECTS,) * images,
        index_map=index_map.repeat(images, 1, 1),
    )  # fmt: skip
    batch = Batch(pixels=pixels, padding=None, targets=targets, image_ids=tuple(range(images)))
    batch = batch.to(torch.device(device))
    model = Detr(config.spec.architecture).to(device)
    if every_mask:
        make_every_mask(model)
    freeze(model, config)
    auxiliary = AuxiliaryHeads(model.config, config).to(device)
    if not every_mask:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(model, auxiliary, config)

    def step() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            total, _ = compute_losses(model, auxiliary, batch, config, with_masks=True)
        return update(total, model, optimizer)

    return step


def make_every_mask(model: Any) -> None:
    """Let a model make the masks of all queries, of which the loss takes those asked for.

    As the original, it hands every query a copy of the features beside its attention.
    """
    attend, head = model.attend, model.mask_head
    every = torch.arange(QUERIES)
    first = torch.zeros(QUERIES, dtype=torch.long)
    asked: list[torch.Tensor] = []

    def attend_every(encoded: Any, states: Any, image: Any, query: Any) -> Any:
        asked.append(query)
        return attend(encoded, states, first, every)

    def refine_every(encoded: Any, attention: Any, image: Any) -> Any:
        copies = encoded.projected.expand(QUERIES, -1, -1, -1)  # Q, D, H, W
        x = torch.cat((copies, attention), dim=1)  # Q, D+A, H, W
        x = F.relu(head.norms[0](head.convs[0](x)))
        x = F.relu(head.norms[1](head.convs[1](x)))
        for number, finer in enumerate(encoded.features[2::-1]):
            copies = head.adapters[number](finer).expand(QUERIES, -1, -1, -1)  # Q, C, h, w
            x = copies + F.interpolate(x, copies.shape[-2:], mode="nearest")
            x = F.relu(head.norms[number + 2](head.convs[number + 2](x)))
        return head.out(x)[asked.pop(), 0]  # N, h, w

    def share_nothing(encoded: Any) -> Any:
        return encoded

    model.attend, model.share, model.refine = attend_every, share_nothing, refine_every


def prepare_transformers(
    size: int,
    *,
    classes_of: str = "transformers",
    images: int = 1,
    device: str = "cpu",
    half: bool = False,
) -> Step:
    from transformers import DetrConfig, ResNetConfig

    pixels, classes, boxes, index_map = (part.to(device) for part in scene(size, images))
    backbone = ResNetConfig(
        depths=[3, 4, 6, 3], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    network: Any = import_module(classes_of).DetrForSegmentation(
        DetrConfig(backbone_config=backbone, num_labels=CLASSES, auxiliary_loss=True)
    )
    for name, parameter in network.named_parameters():
        if any(f"encoder.stages.{stage}." in name for stage in (1, 2, 3)):
            parameter.requires_grad_(True)
    network.to(device).train()
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4, weight_decay=1e-4, fused=True)
    masks = torch.stack([index_map[0] == number + 1 for number in range(OBJECTS)]).float()
    labels = [{"class_labels": classes, "boxes": boxes, "masks": masks}] * images
    real = torch.ones(images, size, size, dtype=torch.long, device=device)

    def step() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = network(pixel_values=pixels, pixel_mask=real, labels=labels).loss
        return update(loss, network, optimizer)

    return step


def update(loss: torch.Tensor, model: Any, optimizer: torch.optim.Optimizer) -> float:
    """Learn from a loss, as the paper: gradients are clipped to 0.1."""
    loss.backward()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.nn.utils.clip_grad_norm_(learned, 0.1)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


SIDES: dict[str, Callable[[int], Step]] = {
    "ours": partial(prepare_ours, learned="all", every_mask=False),
    "original": partial(prepare_ours, learned="all", every_mask=True),
    "compat": partial(prepare_transformers, classes_of="panodetr.compat"),
    "transformers": partial(prepare_transformers, classes_of="transformers"),
    "ours-masks": partial(prepare_ours, learned="masks", every_mask=False),
    "original-masks": partial(prepare_ours, learned="masks", every_mask=True),
}

if __name__ == "__main__":
    sys.exit(main())
