"""From a name, a folder or a file to a model that is ready to use, on the chosen runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.errors import CheckpointError, UsageError
from panodetr.predict import Predictor
from panodetr.runtimes.base import PRECISIONS, RUNTIMES, Precision, RuntimeName
from panodetr.runtimes.exported import is_exported, read_exported

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.model.network import Network


def load(
    model: str | Path = "nuclei",
    *,
    device: str = "auto",
    runtime: RuntimeName | None = None,
    precision: Precision = "float32",
    bits: int | None = None,
    channels: Sequence[int] | None = None,
) -> Predictor:
    """Load a model with its weights.

    Args:
        model: a bundled name, a folder, a file, an id on the Hugging Face hub or a file there; see
            `panodetr.checkpoints.load.load_checkpoint`. Or a file that `panodetr export` has
            written, which needs no torch.
        device: "cpu", "cuda", or "auto" for a GPU where there is one; others than PyTorch run on
            the CPU.
        runtime: what runs it: "torch", "openvino" or "onnx"; None takes what an exported file was
            made for, and else "torch". OpenVINO and ONNX Runtime convert a checkpoint first,
            which takes some seconds each time: export it once to spare them.
        precision: of PyTorch, "float32" (never TF32) or "bfloat16", which rounds;
            it is for GPUs, and for processors that have instructions for it.
        bits: that values of 16-bit images fill, 8 to 16: of 12, 4095 is white. None takes the
            model's own, which training has found; or else all 16.
        channels: of images of more than three channels, those that are red, green and blue, or the
            one that is grey, from 0; None takes the model's own.

    Raises:
        CheckpointError: there is no such model, or its files are damaged.
        UsageError: there is no such device, runtime, precision, bits or channels, or they do not
            go together.
        MissingExtra: the runtime is not installed.
    """
    predictor = _load(model, device, runtime, precision)
    rule = predictor.spec.preprocessing
    own = rule.channels if channels is None else tuple(channels)
    try:
        rule = replace(rule, bits=rule.bits if bits is None else bits, channels=own)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return predictor.with_rule(rule)


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
        if runtime not in (None, info.format):
            raise UsageError(
                f"{model} was exported for {info.format} and runs there alone; "
                f"load the checkpoint itself for runtime {runtime}"
            )
        _only_on_cpu(info.format, device, precision)
        return Predictor(info.spec, exported)
    # Here and not above: torch takes longer to import than an exported file takes to run.
    from panodetr.checkpoints.load import load_checkpoint

    if runtime in (None, "torch"):
        from panodetr.runtimes.torch import choose_device

        chosen = choose_device(device)
        return predictor_of(*_trained(*load_checkpoint(model)), chosen, precision)
    from panodetr.runtimes.convert import convert, require

    _only_on_cpu(runtime, device, precision)
    require(runtime)
    spec, network = _trained(*load_checkpoint(model))
    return Predictor(spec, convert(network, spec.preprocessing, runtime))


def _trained(spec: ModelSpec, network: Network) -> tuple[ModelSpec, Network]:
    """Refuse a model of which most is random."""
    if spec.is_backbone:
        raise CheckpointError(
            f"{spec.name} is a backbone alone, which finds nothing; train a model on it: "
            f"panodetr train finetune --set start={spec.name} --data FOLDER"
        )
    return spec, network


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
    return Predictor(spec, runtime)


def _only_on_cpu(runtime: str, device: str, precision: Precision) -> None:
    """Refuse what only PyTorch does."""
    if device not in ("auto", "cpu"):
        raise UsageError(f"runtime {runtime} runs on the CPU; device is {device!r}")
    if precision != "float32":
        raise UsageError(
            f"runtime {runtime} computes in the precision of its file; precision {precision!r} is "
            "for runtime torch"
        )
