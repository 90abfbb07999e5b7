"""From a model of transformers that is in memory to a `Predictor`, the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from panodetr.checkpoints.load import share_weights
from panodetr.checkpoints.weights import Weights
from panodetr.compat.config import spec_of
from panodetr.errors import UsageError
from panodetr.predict import Predictor
from panodetr.runtimes.base import Precision
from panodetr.runtimes.torch import TorchRuntime

_KINDS = ("DetrForSegmentation", "DetrForObjectDetection", "TableTransformerForObjectDetection")
_PRECISIONS: dict[torch.dtype, Precision] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
}


def from_transformers(model: Any, processor: Any = None) -> Predictor:
    """Predict with a model of transformers, which stays as it is.

    The weights are the model's own, not copies: what it learns afterwards counts here, too, and it
    must not be moved to another device in the meantime. Norms are not folded into convolutions
    then; a folder that the model has saved is a little faster through `panodetr.load`.

    Args:
        model: a `DetrForSegmentation`, `DetrForObjectDetection` or
            `TableTransformerForObjectDetection`, of transformers or of `panodetr.compat`.
        processor: its image processor, which says how images are resized and normalised; None: as
            the published models' do, to a short side of 800 pixels.

    Raises:
        UsageError: the model is of another class, or its weights of another type than float32 and
            bfloat16.
        CheckpointError: there is no such network here.
    """
    names = [base.__name__ for base in type(model).__mro__]
    kind = next((name for name in _KINDS if name in names), None)
    if kind is None:
        raise UsageError(f"the model is a {names[0]}; expected one of {', '.join(_KINDS)}")
    weights = next(iter(model.parameters()))
    if weights.dtype not in _PRECISIONS:
        raise UsageError(f"the weights are {weights.dtype}; expected float32 or bfloat16")
    name = getattr(model.config, "name_or_path", "") or kind
    spec = spec_of(model.config, kind, name, {} if processor is None else processor.to_dict())
    network = share_weights(spec, Weights(Path(name), model.state_dict()))
    precision = _PRECISIONS[weights.dtype]
    rule = spec.preprocessing
    return Predictor(spec, TorchRuntime(network, rule, weights.device, precision, shared=True))
