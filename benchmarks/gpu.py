"""Images a second on a GPU, beside transformers: batches of 1 and 16, float32, bf16, compiled.

    python benchmarks/gpu.py

DETR R101 with masks, random weights, photos of 800 by 1066. Both sides start from photos in memory
and end with masks on the GPU: here uint8 pixels go up and are normalised there, and the masks of 15
queries a photo are computed; transformers' input was prepared before, and it computes all masks.
Where there is no GPU this says so, and measures nothing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from panodetr.bench.compare import compare_loosely, network_answer
from panodetr.bench.machine import describe_machine
from panodetr.bench.process import Answer
from panodetr.bench.report import markdown
from panodetr.bench.rows import Scale
from panodetr.bench.run import Workshop
from panodetr.bench.weights import RandomModel
from panodetr.checkpoints.load import load_checkpoint
from panodetr.files import write_json

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
BATCHES = (1, 16)
SECONDS = 5.0  # of every measurement, after it has warmed up
WARM_UP = 3


@dataclass(frozen=True)
class Precision:
    """How the network is run."""

    name: str
    bf16: bool = False
    compiled: bool = False

    def context(self, device: str) -> AbstractContextManager[object]:
        return torch.autocast(device, torch.bfloat16) if self.bf16 else nullcontext()


PRECISIONS = (
    Precision("float32"),
    Precision("bf16", bf16=True),
    Precision("bf16, compiled", bf16=True, compiled=True),
)


class Ours:
    """From uint8 pixels in memory to the masks of the best queries."""

    def __init__(self, model: RandomModel, kept: int, precision: Precision, device: str) -> None:
        spec, network = load_checkpoint(model.folder)
        network = network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.network = network
        self.detect: Callable[..., Any] = network.detect
        self.masks: Callable[..., Any] = network.masks
        if precision.compiled:
            self.detect, self.masks = torch.compile(network.detect), torch.compile(network.masks)
        rule = spec.preprocessing
        self.mean = torch.tensor(rule.mean, device=device).view(3, 1, 1) * 255
        self.std = torch.tensor(rule.std, device=device).view(3, 1, 1) * 255
        self.kept, self.precision, self.device = kept, precision, device

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """From pixels (B, H, W, 3) to the answer for the first photo, all still on the device."""
        batch = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)  # B, 3, H, W
        batch = (batch - self.mean) / self.std
        with self.precision.context(self.device):
            found = self.detect(batch)
            scores = found.logits.softmax(-1)[..., :-1].amax(-1)  # B, Q
            query = scores.topk(self.kept, dim=1).indices.flatten()  # BK
            image = torch.arange(len(batch), device=self.device).repeat_interleave(self.kept)
            masks = self.masks(found.encoded, found.states, image, query)  # BK, h, w
        return {
            "logits": found.logits[0],
            "boxes": found.boxes[0],
            "masks": masks[: self.kept],
            "kept": query[: self.kept],
        }


class Theirs:
    """From prepared pixels in memory to the masks of all queries."""

    def __init__(self, model: RandomModel, precision: Precision, device: str) -> None:
        import transformers

        library: Any = transformers
        self.network = library.DetrForSegmentation.from_pretrained(model.folder).eval().to(device)
        self.call: Any = torch.compile(self.network) if precision.compiled else self.network
        self.precision, self.device = precision, device

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Any:
        """From normalised pixels (B, 3, H, W)."""
        with self.precision.context(self.device):
            return self.call(pixel_values=pixels.to(self.device, non_blocking=True))


def main() -> None:
    if not torch.cuda.is_available():
        print("PyTorch sees no CUDA GPU here: nothing was measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder), Scale(), threads=torch.get_num_threads())
        lines = compare_all(workshop, "cuda", BATCHES, SECONDS)
    report = {
        "machine": describe_machine(),
        "gpu": torch.cuda.get_device_name(),
        "lines": lines,
    }
    write_json(OUT / "gpu.json", report)
    print(torch.cuda.get_device_name())
    print(markdown([list(lines[0]), *(list(line.values()) for line in lines)]))


def compare_all(
    workshop: Workshop, device: str, batches: tuple[int, ...], seconds: float
) -> list[dict[str, str]]:
    """Measure both sides in every precision and batch; one that fails is told in its place."""
    scale, model = workshop.scale, workshop.segmenter
    photo = torch.from_numpy(workshop.photo(scale.fed).pixels())
    lines: list[dict[str, str]] = []
    exact = _answer(Ours(model, scale.kept, PRECISIONS[0], device), photo)
    for precision in PRECISIONS:
        ours = Ours(model, scale.kept, precision, device)
        near = compare_loosely(_answer(ours, photo), exact).text
        for count in batches:
            pixels = photo.repeat(count, 1, 1, 1)  # B, H, W, 3
            prepared = (pixels.permute(0, 3, 1, 2) / 255).contiguous()  # as fast as any values
            if device == "cuda":
                pixels, prepared = pixels.pin_memory(), prepared.pin_memory()
            speed = _photos_a_second(ours, pixels, seconds)
            theirs = Theirs(model, precision, device)
            other = _photos_a_second(theirs, prepared, seconds)
            lines.append(
                {
                    "precision": precision.name,
                    "batch": str(count),
                    "photos/s": _shown(speed),
                    "transformers": _shown(other),
                    "faster": f"{speed / other:.1f}x"
                    if isinstance(speed, float) and isinstance(other, float)
                    else "",
                    "against our float32": near,
                }
            )
    return lines


def _answer(ours: Ours, photo: Tensor) -> Answer:
    found = ours(photo[None])
    logits, boxes, masks, kept = (
        np.asarray(found[name].float().cpu()) for name in ("logits", "boxes", "masks", "kept")
    )
    order = kept.argsort()
    queries = kept[order].astype(np.intp)
    return network_answer(logits, boxes, queries, masks[order])


def _photos_a_second(side: Callable[[Tensor], Any], batch: Tensor, seconds: float) -> float | str:
    """Give the median over rounds, or what went wrong: memory may not be enough for both."""
    try:
        for _ in range(WARM_UP):
            side(batch)
        rounds: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or not rounds:
            _wait()
            start = time.perf_counter()
            side(batch)
            _wait()
            rounds.append(len(batch) / (time.perf_counter() - start))
    except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
        return f"failed: {str(error).splitlines()[0]}"
    return statistics.median(rounds)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _shown(speed: float | str) -> str:
    return speed if isinstance(speed, str) else f"{speed:.1f}"


if __name__ == "__main__":
    main()
