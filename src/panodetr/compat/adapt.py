"""What `from_pretrained` is asked for beside a model: a changed network, its type and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from panodetr.checkpoints.huggingface import UNUSED
from panodetr.checkpoints.published import plain_category
from panodetr.checkpoints.spec import ModelSpec
from panodetr.compat.config import shape_of, spec_of
from panodetr.errors import UsageError
from panodetr.model.config import DetrConfig
from panodetr.model.detr import Detr

NO_EFFECT = (
    *("low_cpu_mem_usage", "use_safetensors", "weights_only", "trust_remote_code"),
    *("_fast_init", "offload_state_dict", "proxies", "resume_download", "use_kernels"),
)
"""Loading is lean, runs no code from files and takes safetensors where they are, whatever these
say."""

_ATTENTION = ("sdpa", "eager", None)
REFUSED = {
    "from_flax": "convert the weights with transformers first",
    "from_tf": "convert the weights with transformers first",
    "load_in_4bit": "`panodetr export` makes smaller models",
    "load_in_8bit": "`panodetr export` makes smaller models",
    "max_memory": "the model is on one device; leave it out",
    "offload_folder": "the model is on one device; leave it out",
    "quantization_config": "`panodetr export` makes smaller models",
    "variant": "give the file itself, as 'owner/name/file.safetensors'",
}


def refuse(options: Mapping[str, Any]) -> None:
    """Refuse arguments of transformers that mean nothing here.

    Raises:
        UsageError: one of them is given; the line says what to do instead.
    """
    for name, remedy in REFUSED.items():
        if options.get(name):
            raise UsageError(f"{name} is not supported; {remedy}")
    attention = options.get("attn_implementation")
    if attention not in _ATTENTION:
        raise UsageError(
            f"attn_implementation is {attention!r}; expected 'sdpa' or 'eager', which compute the "
            "same here"
        )


def choose_dtype(asked: str | torch.dtype | None, config: Any) -> torch.dtype | None:
    """Give the type that weights are to have; "auto" is the configuration's, and None as they are.

    Raises:
        UsageError: there is no such type.
    """
    if asked == "auto":
        asked = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    found = getattr(torch, asked.removeprefix("torch."), None) if isinstance(asked, str) else asked
    if asked is None:
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(f"dtype is {asked!r}; expected 'float32', 'bfloat16' or the like")
    return found


def choose_device(asked: object) -> torch.device:
    """Give the device that a `device_map` means: "auto" takes a GPU where there is one.

    Raises:
        UsageError: it means several devices, or none.
    """
    if isinstance(asked, Mapping):
        places = set(asked.values())
        if len(places) != 1:
            raise UsageError(
                f"device_map names {len(places)} devices; the model is on one: give its name"
            )
        (asked,) = places
    if asked is None:
        return torch.device("cpu")
    if asked in ("auto", "balanced", "balanced_low_0", "sequential"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(asked)  # pyright: ignore[reportArgumentType, reportCallIssue]
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            f"device_map is {asked!r}; expected 'auto' or a device such as 'cuda:0'"
        ) from error


def with_classes(spec: ModelSpec, count: int, labels: Mapping[int, str]) -> ModelSpec:
    """Give a model's classes their number and names; those that keep a name stay as they are."""
    known = {(category.index, category.name): category for category in spec.categories}
    categories = tuple(
        known.get((index, name)) or plain_category(index, name)
        for index in range(count)
        if (name := labels.get(index, f"class {index}")) != UNUSED
    )
    shape = replace(shape_of(spec), num_classes=count)
    kept = spec.thresholds_of(categories)
    return replace(spec, architecture=shape, categories=categories, class_thresholds=kept)


def new_network(shape: DetrConfig, config: Any) -> Detr:
    """Make a network whose weights are as random as transformers' new ones.

    Args:
        shape: of the network.
        config: a `DetrConfig`, of ours or of transformers, which says how far weights spread.
    """
    network = Detr(shape)
    parts = (network.project, network.encoder, network.decoder, network.class_head)
    for module in nn.ModuleList([*parts, network.box_head, network.queries]).modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            nn.init.normal_(module.weight, std=config.init_std)
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    if network.attention_maps is not None:
        for linear in (network.attention_maps.query, network.attention_maps.key):
            nn.init.xavier_uniform_(linear.weight, gain=config.init_xavier_std)
    return network


def adapt(
    spec: ModelSpec, network: Detr, configs: tuple[Any, Any], kind: str
) -> tuple[ModelSpec, Detr]:
    """Change a network to what a configuration asks for.

    Weights are kept where their names and shapes are the same; others are new, as random as those
    of a fresh model.

    Args:
        spec: of the network.
        network: is changed or replaced.
        configs: what it is, and what it is to be.
        kind: of the model, by transformers' class name.

    Raises:
        CheckpointError: there is no such network.
    """
    own = network.config
    if own.masks and kind != "DetrForSegmentation":
        own = network.config = replace(own, masks=False)
        network.attention_maps = network.mask_head = None
    (_, before), (labels, after) = (
        (config.id2label, shape_of(spec_of(config, kind, spec.name))) for config in configs
    )
    changes = {k: value for k, value in vars(after).items() if value != getattr(before, k)}
    asked = replace(own, **changes, masks=kind == "DetrForSegmentation")
    if configs[0].id2label != labels:
        spec = with_classes(spec, asked.num_classes, labels)
    spec = replace(spec, architecture=asked)
    if asked == own:
        return spec, network
    fresh = new_network(asked, configs[1])
    there, wanted = network.state_dict(), fresh.state_dict()
    same = [k for k, weight in there.items() if k in wanted and weight.shape == wanted[k].shape]
    fresh.load_state_dict({k: there[k] for k in same}, strict=False)
    return spec, fresh.eval()
