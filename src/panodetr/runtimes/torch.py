"""PyTorch, on the CPU or a GPU.

Letters: B images, H and W their padded size, Q queries, N masks, h and w a mask's size, C channels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ContextDecorator, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from threading import Barrier
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_weights

from panodetr.errors import UsageError
from panodetr.images.preprocess import Preprocessing
from panodetr.model.backbone import FrozenBatchNorm
from panodetr.model.detr import Detections, Detr, Encoded
from panodetr.model.network import Found, Network
from panodetr.results.masks import (
    Contest,
    Masks,
    Merged,
    NumpyMasks,
    Pick,
    Size,
    pick_like_pillow,
)
from panodetr.runtimes.base import Precision, Runtime, check_device
from panodetr.runtimes.cpu_masks import CpuMasks
from panodetr.threads import Streams

MASKS_AT_ONCE = 64
"""Masks are independent of each other; this many at a time bound a GPU's memory."""

CACHED_PIXELS = 110_000
"""Pixels of the finest map that a processor works on at a time: two masks of an image of 800 by
1066. More would push each other's activations out of the cache."""

ROUNDS = 3
"""Of merging that a device does before it is asked whether it has come to an end."""

UPSAMPLED_VALUES = 1 << 26
"""Values of upsampled masks that are held at a time: 256 MiB."""


class FullFloat32(ContextDecorator):
    """Keeps GPUs from rounding the factors of float32 products to TF32, within `with` blocks.

    PyTorch's settings are the process's, whatever thread sets them: when the last block ends that
    is open at the time, they are as they were before the first one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._before: list[object] = []
        conv: object = getattr(torch.backends.cudnn, "conv", None)
        self._name, self._off = "fp32_precision", "ieee"
        if conv is None:  # before PyTorch 2.9
            conv, self._name, self._off = torch.backends.cudnn, "allow_tf32", False
        self._owners = conv, torch.backends.cuda.matmul

    def __enter__(self) -> None:
        with self._lock:
            if not self._blocks:
                self._before = self.values()
                self._set([self._off, self._off])
            self._blocks += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                self._set(self._before)

    def begin_anew(self) -> None:
        """Forget the blocks of threads that a forked process does not have."""
        self._lock, self._blocks = threading.Lock(), 0

    def values(self) -> list[object]:
        """Give the settings of convolutions and of matrix products."""
        return [getattr(owner, self._name) for owner in self._owners]

    def is_on(self) -> bool:
        """Whether both are computed in full float32."""
        return self.values() == [self._off, self._off]

    def _set(self, values: list[object]) -> None:
        for owner, value in zip(self._owners, values, strict=True):
            setattr(owner, self._name, value)


full_float32 = FullFloat32()


@contextmanager
def as_memory_error() -> Generator[None]:
    """Raise Python's own MemoryError where a device's memory is full."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from None


def _begin_forked() -> None:
    """Let a forked process compute in one thread: it would wait for those of its parent."""
    torch.set_num_threads(1)
    full_float32.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_forked)


class TorchRuntime(Runtime):
    """A network on a device.

    Its frozen batch norms are folded into the convolutions before them (`fold_norms`). On a GPU
    float32 is float32, and not the TF32 of ten bits that cuDNN takes by itself. The model is taken
    over: its weights may be moved and converted, and its norms replaced. `plain` leaves it as it is
    defined, for comparison. `shared` leaves its weights where they are, too, for they are another
    model's: its device and precision must be those that are given.
    """

    def __init__(
        self,
        model: Network,
        rule: Preprocessing,
        device: torch.device,
        precision: Precision = "float32",
        *,
        plain: bool = False,
        shared: bool = False,
    ) -> None:
        self.rule = rule
        self.device = device
        self.resizes = device.type != "cpu"  # Pillow is quicker than PyTorch there
        self.dtype = torch.float32 if precision == "float32" else torch.bfloat16
        self.model = model.eval()
        self.cell = model.config.backbone.stride if isinstance(model, Detr) else None
        if shared:
            return
        if not plain:
            fold_norms(model.backbone)  # before weights are rounded
        # torch's stubs leave `memory_format` out.
        channels_last = torch.channels_last
        model.to(device, self.dtype, memory_format=channels_last)  # pyright: ignore[reportCallIssue]

    @torch.inference_mode()
    @full_float32
    @as_memory_error()
    def detect(
        self,
        images: NDArray[np.uint8],
        padding: NDArray[np.bool_] | None,
        size: Size | None = None,
    ) -> TorchPrediction:
        """Run on images (B, H, W, 3) in RGB; padding (B, H, W) is True beside them.

        They are resized already, unless there is a size: then the device does it.

        Raises:
            MemoryError: the device's memory does not hold so many.
        """
        batch = upload(images, self.device)
        if size is not None:
            batch = resize_images(batch, size)
        mask = None if padding is None else upload(padding, self.device)
        pixels = normalize_images(batch, mask, self.rule).to(self.dtype)
        return TorchPrediction(self.model, self.model.detect(pixels, mask))

    @torch.inference_mode()
    @full_float32
    @as_memory_error()
    def detect_tiles(
        self,
        region: NDArray[np.uint8],
        corners: Sequence[tuple[int, int]],
        size: Size,
        whole: Size | None = None,
    ) -> TorchPrediction:
        """See `DeviceRuntime`: the backbone runs once, on the region.

        Of tiles that overlap by two thirds that saves a fifth of all work
        (`benchmarks/large.py --whole 2048`). Features at a tile's borders then know what lies
        beyond, for 0.001 of thing PQ (docs/decisions/071-tiles-share-features.md).
        """
        assert isinstance(self.model, Detr)
        batch = upload(np.stack([region]), self.device)  # a copy, for the image may be read-only
        if whole is not None:
            batch = resize_images(batch, whole)
        pixels = normalize_images(batch, None, self.rule).to(self.dtype)
        features: list[Tensor] = []
        for maps in self.model.backbone(pixels):
            stride = pixels.shape[-2] // maps.shape[-2]
            height, width = (side // stride for side in size)
            tiles = [
                maps[0, :, y // stride :, x // stride :][:, :height, :width] for y, x in corners
            ]
            own = torch.stack(tiles)  # T, channels, h, w
            features.append(own.contiguous(memory_format=torch.channels_last))
        found = self.model.find(self.model.encode_features(tuple(features)))
        return TorchPrediction(self.model, found)

    @contextmanager
    def streams(self, most: int) -> Generator[Streams]:
        """See `Runtime`.

        Two images that have a core each are done a sixth sooner than one after the other on two
        cores, which wait for each other at every operation (`benchmarks/throughput.py`).
        """
        threads = torch.get_num_threads()
        count = min(threads, most) if self.device.type == "cpu" else 1
        if count < 2:
            yield Streams()
            return
        started = Barrier(count + 1)

        def keep_to_one_core() -> None:
            torch.get_num_threads()  # what a thread begins with is set when it is first needed
            torch.set_num_threads(1)

        with ThreadPoolExecutor(count, initializer=keep_to_one_core) as pool:
            for _ in range(count):
                pool.submit(started.wait)
            started.wait()
            torch.set_num_threads(threads)  # it is also what threads begin with
            try:
                yield Streams(count, pool)
            finally:
                pool.shutdown(cancel_futures=True)


class TorchPrediction:
    """What the model said, still on its device; see `panodetr.runtimes.base.Prediction`."""

    def __init__(self, model: Network, found: Found) -> None:
        self._model = model
        self._found = found
        logits = to_host(found.logits.float())
        boxes = None if found.boxes is None else to_host(found.boxes.float())
        finish_copies(found.logits.device)
        self.logits: NDArray[np.float32] = logits.numpy()
        self.boxes: NDArray[np.float32] | None = None if boxes is None else boxes.numpy()

    @torch.inference_mode()
    @full_float32
    @as_memory_error()
    def masks(self, queries: Sequence[NDArray[np.intp]]) -> list[Masks]:
        """Compute the masks of some queries (N,) of each image.

        Raises:
            ValueError: the model has no mask head.
            MemoryError: the device's memory does not hold so many.
        """
        found, device = self._found, self._found.logits.device
        counts = [len(own) for own in queries]
        image = upload(np.repeat(np.arange(len(queries)), counts), device)
        query = upload(np.concatenate(queries), device)
        if isinstance(self._model, Detr):
            assert isinstance(found, Detections)
            values = compute_masks(self._model, found.encoded, found.states, image, query)
        else:
            values = self._model.masks(found, image, query)
        own = values.float().split(counts)
        if device.type == "cpu":
            return [NumpyMasks(masks.numpy()) for masks in own]
        return [TorchMasks(masks) for masks in own]


def compute_masks(
    model: Detr, encoded: Encoded, states: Tensor, image: Tensor, query: Tensor
) -> Tensor:
    """Compute masks as `Detr.refine` does, as many at a time as the device is quick with.

    On the CPU of one image at a time: its maps are then not copied for each of its queries, which
    takes a third of the time.

    Arguments, result and error are those of `Detr.attend`, and the last are mask logits (N, h, w);
    `image` must rise.
    """
    attention = model.attend(encoded, states, image, query)  # N, A, h, w
    if image.device.type != "cpu":
        shared = model.share(encoded)
        parts = zip(attention.split(MASKS_AT_ONCE), image.split(MASKS_AT_ONCE), strict=True)
        return torch.cat([model.refine(shared, *part) for part in parts])  # N, h, w
    height, width = encoded.features[model.config.mask_stages[-1]].shape[-2:]
    at_once = max(1, CACHED_PIXELS // (height * width))
    wanted, counts = image.unique_consecutive(return_counts=True)  # images that have masks
    if len(wanted) < len(states):
        features = tuple(maps[wanted] for maps in encoded.features)
        encoded = replace(encoded, features=features, projected=encoded.projected[wanted])
    shared = model.share(encoded) if len(wanted) else ()
    assert model.mask_head is not None
    masks = [attention.new_zeros((0, height, width))]
    for number, own in enumerate(attention.split(counts.tolist())):
        head = CpuMasks(model.mask_head, tuple(maps[number : number + 1] for maps in shared))
        masks += [head.refine(part) for part in own.split(at_once)]
    return torch.cat(masks)  # N, h, w


@dataclass(frozen=True, eq=False)
class TorchMasks(Masks):
    """Masks in float32 on a device."""

    values: Tensor

    def logits(self) -> NDArray[np.float32]:
        """See `Masks`."""
        return self.values.cpu().numpy()

    def choose(self, chosen: NDArray[np.intp]) -> Self:
        """See `Masks`."""
        return replace(self, values=self.values[torch.from_numpy(chosen).to(self.values.device)])

    @torch.inference_mode()
    def merge(self, first: NDArray[np.intp], least: int) -> Merged:
        """See `Masks`: the first rounds run on the device, and nothing waits for it meanwhile."""
        count, device = len(self.values), self.values.device
        number = torch.arange(count, device=device)
        winner, left, settled = number, number >= 0, torch.tensor(False)
        for group in (upload(first, device), *[number] * (ROUNDS - 1)):
            # Not infinite: between two rows an infinity times 0 would be no number.
            own = self.values.masked_fill(~left[:, None, None], torch.finfo(torch.float32).min / 4)
            winner = replace(self, values=own)._winner(pick_like_pillow)  # H, W
            pixels = torch.stack([(winner == place).sum() for place in range(count)])
            areas = torch.zeros_like(pixels).index_add_(0, group, pixels)
            stays = left & (areas >= least)
            settled, left = (stays == left).all(), stays
        narrow = winner.to(torch.uint8 if count <= 256 else torch.int32)
        found = [to_host(tensor) for tensor in (narrow, left, settled)]

        def wait() -> tuple[NDArray[np.integer], NDArray[np.intp]]:
            finish_copies(device)
            winner, left, settled = (tensor.numpy() for tensor in found)
            kept = np.flatnonzero(left)
            if settled or not len(kept):
                return winner, kept
            again = np.arange(len(kept))
            winner, fewer = self.choose(kept).merge(again, least)()
            return kept.take(winner), kept[fewer]

        return wait

    @torch.inference_mode()
    @full_float32
    def mix(self, weights: NDArray[np.float32]) -> Self:
        """See `Masks`."""
        own = torch.from_numpy(weights).to(self.values.device)
        return replace(self, values=torch.einsum("nm,nhw->mhw", own, self.values.sigmoid()))

    @torch.inference_mode()
    @full_float32
    def compete(self, scores: NDArray[np.float32], least: float = 0) -> Contest:
        """See `Masks`."""
        count, device, target = len(self.values), self.values.device, self.frame.target
        best = torch.full(target, -1.0, device=device)
        winner = torch.zeros(target, dtype=torch.int32, device=device)
        likely = torch.zeros(target, dtype=torch.bool, device=device)
        areas = torch.zeros(count, dtype=torch.int64, device=device)
        for number, score in enumerate(scores.tolist()):
            values = self._upsample(self.values[number : number + 1])
            values = F.interpolate(values[None], target, mode="bilinear")[0, 0]
            inside, chance = values >= least, score * values.sigmoid()
            areas[number] = inside.sum()
            higher = chance > best
            winner.masked_fill_(higher, number)
            likely = torch.where(higher, inside, likely)
            best = torch.maximum(best, chance)
        return Contest(*(found.cpu().numpy() for found in (winner, likely, areas)))

    def _upsample(self, masks: Tensor) -> Tensor:
        """Bring masks (N, h, w) to the size that the image has on the canvas: (N, *size)."""
        size = self.frame.size
        height, width = map(round, self.frame.canvas or size)
        values = F.interpolate(masks[None], (height, width), mode="bilinear", align_corners=False)
        return values[0, :, : size[0], : size[1]]

    def _find(self, pick: Pick, *, inside: bool = False) -> NDArray[np.integer]:
        return self._winner(pick, inside=inside).cpu().numpy()

    @torch.inference_mode()
    def _winner(self, pick: Pick, *, inside: bool = False) -> Tensor:
        """Find what `_find` gives, and leave it on the device."""
        count, device = len(self.values), self.values.device
        size, target, _ = self.frame
        best = torch.full(size, 0 if inside else -torch.inf, device=device)
        found = torch.full(size, count, dtype=torch.int32, device=device)
        at_once = max(1, UPSAMPLED_VALUES // (size[0] * size[1]))
        parts = self.values.split(at_once)
        for start, masks in zip(range(0, count, at_once), parts, strict=True):
            values = self._upsample(masks)
            if inside:
                values = (values > 0).float()
            value, number = values.max(dim=0)  # the first of equals
            found = torch.where(value > best, number.int() + start, found)
            best = torch.maximum(best, value)
        y, x = (_picked(*side, pick, device) for side in zip(size, target, strict=True))
        return found.index_select(1, x).index_select(0, y)


@lru_cache(maxsize=64)  # most images of a run are of few sizes
def _picked(processed: int, target: int, pick: Pick, device: torch.device) -> Tensor:
    return torch.from_numpy(pick(processed, target)).to(device)


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a device; to a CUDA GPU without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )


def to_host(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU; from a CUDA GPU it is there after `finish_copies`."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def finish_copies(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def resize_images(images: Tensor, size: Size) -> Tensor:
    """Resize images (B, H, W, 3) uint8 as `panodetr.images.preprocess`, to one grey level."""
    values = images.permute(0, 3, 1, 2).float()  # B, 3, H, W
    values = F.interpolate(values, size, mode="bilinear", antialias=True).round_().clamp_(0, 255)
    return values.to(torch.uint8).permute(0, 2, 3, 1)  # B, h, w, 3


def normalize_images(images: Tensor, padding: Tensor | None, rule: Preprocessing) -> Tensor:
    """Pixels (B, 3, H, W) from images (B, H, W, 3) uint8, zero at padding (B, H, W).

    The values are those of `panodetr.images.preprocess.normalize`, to the bit. Channels stay last
    in memory, where images have them and convolutions want them.
    """
    # Channels first in order, so that other libraries don't compute in rows of three values.
    pixels = images.permute(0, 3, 1, 2).float().div_(255)  # B, 3, H, W
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (rule.mean, rule.std))
    pixels.sub_(mean).div_(std)
    return pixels if padding is None else pixels * ~padding[:, None]


@torch.no_grad()
def fold_norms(backbone: nn.Module) -> None:
    """Leave a backbone without the norms that can be folded; for inference, on any device.

    A frozen norm is seven operations, each of which a GPU has to start, and two of which go over
    the whole map. Every norm of a backbone follows its convolution;
    `tests/runtimes/test_folding.py` holds the outputs equal.
    """
    for owner in list(backbone.modules()):
        for (_, conv), (name, norm) in pairwise(owner.named_children()):
            # Other norms depend on their input.
            if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm | nn.BatchNorm2d):
                statistics = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, *statistics, norm.eps, norm.weight, norm.bias
                )
                setattr(owner, name, nn.Identity())


def choose_device(name: str) -> torch.device:
    """The device that a name means here (`check_device`); auto takes a CUDA GPU where there is one.

    Raises:
        UsageError: there is no such device.
    """
    check_device(name)
    gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device is mps, but PyTorch sees no Apple GPU here; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UsageError(
            f"device is {name}, but PyTorch sees {gpus or 'no'} CUDA GPU{'s' * (gpus > 1)} here; "
            "use --device cpu or auto"
        )
    return device
