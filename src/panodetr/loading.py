"""From a name, a folder or a file to a model that is ready to use, on the chosen runtime."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.errors import CheckpointError, UsageError
from panodetr.images.views import BATCH_PIXELS, GPU_BATCH_PIXELS, Batching
from panodetr.predict import Predictor
from panodetr.runtimes.base import PRECISIONS, RUNTIMES, Precision, RuntimeName
from panodetr.runtimes.exported import find_exported, is_exported, read_exported

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.model.network import Network

_LOG = logging.getLogger(__name__)


def load(
    model: str | Path = "nuclei",
    *,
    device: str = "auto",
    runtime: RuntimeName | None = None,
    precision: Precision = "float32",
    batch: int | None = None,
    bits: int | None = None,
    channels: Sequence[int] | None = None,
) -> Predictor:
    """Load a model with its weights.

    Args:
        model: a bundled name, a folder, a file, an id on the Hugging Face hub or a file there; see
            `panodetr.checkpoints.load.load_checkpoint`. Or a file that `panodetr export` has
            written, which needs no torch.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for a CUDA GPU where there is one; others
            than PyTorch run on the CPU.
        runtime: what runs it: "torch", "openvino" or "onnx"; None takes what an exported file was
            made for, and else "torch". OpenVINO and ONNX Runtime convert a checkpoint first,
            which takes some seconds each time: export it once to spare them. "auto" takes a float32
            file that was exported from this checkpoint, lies beside it and begins with its name, if
            its runtime is installed and nothing asks for a GPU, and logs which; it never exports.
        precision: of PyTorch, "float32" (never TF32) or "bfloat16", which rounds;
            it is for GPUs, and for processors that have instructions for it.
        batch: images or tiles of one size that run together; None takes as many as suit the
            device. Where its memory does not hold them, fewer run together.
        bits: that values of 16-bit images fill, 8 to 16: of 12, 4095 is white. None takes the
            model's own, which training has found; or else all 16.
        channels: of images of more than three channels, those that are red, green and blue, or the
            one that is grey, from 0; None takes the model's own.

    Raises:
        CheckpointError: there is no such model, or its files are damaged.
        UsageError: there is no such device, runtime, precision, batch, bits or channels, or they do
            not go together.
        MissingExtra: the runtime is not installed.
    """
    predictor = _load(model, device, runtime, precision)
    rule = predictor.spec.preprocessing
    own = rule.channels if channels is None else tuple(channels)
    try:
        rule = replace(rule, bits=rule.bits if bits is None else bits, channels=own)
    except ValueError as error:
        raise UsageError(str(error)) from error
    spec = replace(predictor.spec, preprocessing=rule)
    return Predictor(spec, predictor.runtime, replace(predictor.batching, count=batch))


def _load(
    model: str | Path, device: str, runtime: RuntimeName | None, precision: Precision
) -> Predictor:
    """Load a model as its checkpoint says."""
    if runtime is not None and runtime not in RUNTIMES:
        raise UsageError(f"runtime is {runtime!r}; expected one of {', '.join(RUNTIMES)}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if (file := Path(model)).is_file() and is_exported(file):
        info, exported = read_exported(file)
        if runtime not in (None, "auto", info.format):
            raise UsageError(
                f"{model} was exported for {info.format} and runs there alone; "
                f"load the checkpoint itself for runtime {runtime}"
            )
        _only_on_cpu(info.format, device, precision)
        return Predictor(info.spec, exported)
    # Here and not above: torch takes longer to import than an exported file takes to run.
    from panodetr.checkpoints.load import load_checkpoint
    from panodetr.runtimes.convert import convert, require, weights_digest
    from panodetr.runtimes.torch import choose_device

    converted = runtime if runtime in ("openvino", "onnx") else None
    if converted is not None:
        _only_on_cpu(converted, device, precision)
        require(converted)
    chosen = choose_device(device)
    spec, network = load_checkpoint(model)
    if spec.is_backbone:
        raise CheckpointError(
            f"{spec.name} is a backbone alone, which finds nothing; train a model on it: "
            f"panodetr train finetune --set start={spec.name} --data FOLDER"
        )
    if converted is not None:
        return Predictor(spec, convert(network, spec.preprocessing, converted))
    if runtime == "auto" and chosen.type == "cpu" and precision == "float32":
        exported = find_exported(Path(model), weights_digest(network))
        if exported is not None:
            _LOG.warning("runtime auto takes %s, which was exported from %s", exported, model)
            return Predictor(spec, read_exported(exported)[1])
    return predictor_of(spec, network, chosen, precision)


def predictor_of(
    spec: ModelSpec,
    network: Network,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
) -> Predictor:
    """Predict with a network that is in memory, in PyTorch; the network is taken over."""
    import torch

    from panodetr.runtimes.torch import TorchRuntime

    runtime = TorchRuntime(network, spec.preprocessing, torch.device(device), precision)
    pixels = BATCH_PIXELS if runtime.device.type == "cpu" else GPU_BATCH_PIXELS
    return Predictor(spec, runtime, Batching(pixels=pixels))


def _only_on_cpu(runtime: str, device: str, precision: Precision) -> None:
    """Refuse what only PyTorch does."""
    if device not in ("auto", "cpu"):
        raise UsageError(f"runtime {runtime} runs on the CPU; device is {device!r}")
    if precision != "float32":
        raise UsageError(
            f"runtime {runtime} computes in the precision of its file; precision {precision!r} is "
            "for runtime torch"
        )
