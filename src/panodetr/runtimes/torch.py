"""PyTorch, on the CPU or a GPU."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from panodetr.errors import UsageError
from panodetr.runtimes.folding import fold_norms
from panodetr.runtimes.fused import can_fuse, fuse
from panodetr.runtimes.pixels import normalize_images

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray
    from torch import Tensor

    from panodetr.images.preprocess import Preprocessing
    from panodetr.model.detr import Detections, Detr
    from panodetr.runtimes.base import Precision

MASKS_AT_ONCE = 64
"""Masks are independent of each other; this many at a time bound the memory that they take."""


@contextmanager
def full_float32() -> Generator[None]:
    """Keep GPUs from rounding the factors of float32 products to TF32, whatever PyTorch's defaults.

    They are the process's, whatever thread sets them: when the last block ends that is open at the
    time, they are as they were before the first one.
    """
    _tf32.keep_off()
    try:
        yield
    finally:
        _tf32.let_be()


class _Tf32:
    """PyTorch's settings for TF32, and how many blocks want it off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._before = ("", "")

    def keep_off(self) -> None:
        """Begin a block."""
        with self._lock:
            if not self._blocks:
                self._before = self._change("ieee", "ieee")
            self._blocks += 1

    def let_be(self) -> None:
        """End a block."""
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                self._change(*self._before)

    def _change(self, convolutions: str, products: str) -> tuple[str, str]:
        """Set both, and give what they were."""
        cudnn: Any = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
        matmul: Any = torch.backends.cuda.matmul
        before = cudnn.fp32_precision, matmul.fp32_precision
        cudnn.fp32_precision, matmul.fp32_precision = convolutions, products
        return before


_tf32 = _Tf32()


class TorchRuntime:
    """A `Detr` on a device.

    On the CPU, in float32, it is the fused one (`panodetr.runtimes.fused`); elsewhere its batch
    norms are folded (`panodetr.runtimes.folding`). On a GPU float32 is float32, and not the TF32 of
    ten bits that cuDNN takes by itself. The model is taken over: its weights may be moved and
    converted, and its norms replaced. `plain` leaves it as it is defined, for comparison.
    """

    def __init__(
        self,
        model: Detr,
        rule: Preprocessing,
        device: torch.device,
        precision: Precision = "float32",
        *,
        plain: bool = False,
    ) -> None:
        self.rule = rule
        self.device = device
        self.dtype = torch.float32 if precision == "float32" else torch.bfloat16
        # torch's stubs leave `memory_format` out.
        channels_last = torch.channels_last
        fusible = device.type == "cpu" and precision == "float32" and not plain and can_fuse()
        if not plain and not fusible:
            fold_norms(model.backbone)  # before weights are rounded
        model = model.eval().to(device, self.dtype, memory_format=channels_last)  # pyright: ignore[reportCallIssue]
        self.model = fuse(model) if fusible else model

    @torch.inference_mode()
    @full_float32()
    def detect(self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None) -> TorchFound:
        """Run on images (B, H, W, 3) in RGB, resized; padding (B, H, W) is True beside them."""
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        mask = None if padding is None else torch.from_numpy(padding).to(self.device)
        pixels = normalize_images(batch, mask, self.rule).to(self.dtype)
        return TorchFound(self.model, self.model.detect(pixels, mask))


class TorchFound:
    """What the model found, still on its device."""

    def __init__(self, model: Detr, detections: Detections) -> None:
        self._model = model
        self._detections = detections
        self._shared: tuple[Tensor, ...] | None = None
        self.logits: NDArray[np.float32] = detections.logits.float().cpu().numpy()
        self.boxes: NDArray[np.float32] = detections.boxes.float().cpu().numpy()

    @torch.inference_mode()
    @full_float32()
    def masks(self, image: NDArray[np.intp], query: NDArray[np.intp]) -> NDArray[np.float32]:
        """Mask logits (N, h, w) of the queries (N,) of the images (N,)."""
        found, model = self._detections, self._model
        if self._shared is None:
            self._shared = model.share(found.encoded)
        parts: list[NDArray[np.float32]] = []
        for start in range(0, max(1, len(image)), MASKS_AT_ONCE):
            part = slice(start, start + MASKS_AT_ONCE)
            images = torch.from_numpy(image[part]).to(found.states.device)
            queries = torch.from_numpy(query[part]).to(found.states.device)
            attention = model.attend(found.encoded, found.states, images, queries)
            parts.append(model.refine(self._shared, attention, images).float().cpu().numpy())
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
