"""PyTorch, on the CPU or a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from panodetr.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from panodetr.model.detr import Detr
    from panodetr.model.outputs import Detections

MASKS_AT_ONCE = 64
"""Masks are independent of each other; this many at a time bound the memory that they take."""


class TorchRuntime:
    """A `Detr` on a device."""

    def __init__(self, model: Detr, device: torch.device) -> None:
        self.device = device
        # torch's stubs leave `memory_format` out.
        channels_last = torch.channels_last
        self.model = model.eval().to(device, memory_format=channels_last)  # pyright: ignore[reportCallIssue]

    @torch.inference_mode()
    def detect(self, pixels: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> TorchFound:
        """Run on normalised pixels (B, 3, H, W); padding (B, H, W) is True beside the photos."""
        batch = torch.from_numpy(pixels).to(self.device, memory_format=torch.channels_last)
        mask = None if padding is None else torch.from_numpy(padding).to(self.device)
        return TorchFound(self.model, self.model.detect(batch, mask))


class TorchFound:
    """What the model found, still on its device."""

    def __init__(self, model: Detr, detections: Detections) -> None:
        self._model = model
        self._detections = detections
        self.logits: NDArray[np.float32] = detections.logits.float().cpu().numpy()
        self.boxes: NDArray[np.float32] = detections.boxes.float().cpu().numpy()

    @torch.inference_mode()
    def masks(self, image: NDArray[np.intp], query: NDArray[np.intp]) -> NDArray[np.float32]:
        """Mask logits (N, h, w) of the queries (N,) of the photos (N,)."""
        found = self._detections
        parts = [
            self._model.masks(
                found.encoded,
                found.states,
                torch.from_numpy(image[start : start + MASKS_AT_ONCE]).to(found.states.device),
                torch.from_numpy(query[start : start + MASKS_AT_ONCE]).to(found.states.device),
            )
            .float()
            .cpu()
            .numpy()
            for start in range(0, max(1, len(image)), MASKS_AT_ONCE)
        ]
        return np.concatenate(parts)


def choose_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here; auto takes a GPU where there is one.

    Raises:
        UsageError: there is no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device is {name!r}; expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "device is cuda, but PyTorch sees no CUDA GPU here; use --device cpu or auto"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
