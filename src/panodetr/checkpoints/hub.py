"""Models in folders and on the Hugging Face hub, and the list of all that are known.

The cache, token, endpoint and offline mode of huggingface_hub are set by its environment variables
(`HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`). A transfer that breaks goes on where it
stopped: with version 2 of the client at once, several times, and with older ones at the next call.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from operator import attrgetter
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, build_opener

from panodetr.checkpoints.eomt import read_dinov2, read_eomt
from panodetr.checkpoints.huggingface import read_huggingface
from panodetr.checkpoints.published import PUBLISHED, bundled
from panodetr.checkpoints.spec import (
    CONFIG_FILE,
    FORMAT,
    METRICS_FILE,
    PREPROCESSOR_FILE,
    SAFETENSORS,
    WEIGHTS_FILES,
    ModelSpec,
    WeightsIndex,
    spec_from_json,
)
from panodetr.errors import CheckpointError
from panodetr.validation import read_json

_READERS = {
    "detr": read_huggingface,
    "conditional_detr": read_huggingface,
    "table-transformer": read_huggingface,
    "eomt": read_eomt,
    "dinov2_with_registers": read_dinov2,
}
"""By what transformers calls a kind of model."""

_PATIENCE = 1.5  # seconds that the hub may take for its first answer
_OFFLINE = "offline mode is on; unset HF_HUB_OFFLINE to fetch it"
_CACHE_ONLY = "local_files_only is true; leave it out to fetch it"
_TASKS: dict[bool, Literal["panoptic", "detection"]] = {True: "panoptic", False: "detection"}


def fetch(
    hub_id: str,
    revision: str | None = None,
    *,
    file: str | None = None,
    weights: bool = True,
    client: Mapping[str, Any] | None = None,
) -> Path:
    """Fetch a checkpoint's files, and only those that are needed, all of one commit.

    Args:
        hub_id: `owner/name`.
        revision: branch, tag or commit; None takes the main branch.
        file: one file of weights, with the folders that it lies in there; what describes it comes
            along where it is a model's usual file. None takes the model's own.
        weights: whether the model's weights are needed, or only what describes them.
        client: of the arguments of `hf_hub_download`: `cache_dir`, `token`, `local_files_only`,
            `force_download`.

    Returns:
        The folder, or the file, in the cache.

    Raises:
        CheckpointError: there is no such model or file, it may not be read, or the hub cannot be
            reached and the cache does not have it.
    """
    inner = PurePosixPath(file or CONFIG_FILE)
    with _quiet():
        given = dict(client or {})
        unreachable = _CACHE_ONLY if given.pop("local_files_only", False) else _why_unreachable()
        get = partial(_fetch_file, hub_id, unreachable, given)
        found = get(str(inner), revision)
        if found is None and file is None:
            raise CheckpointError(f"{hub_id} on the hub has no {CONFIG_FILE}; is it a model?")
        if found is None:
            raise CheckpointError(
                f"{hub_id} on the hub has no file {file}; see its list of files there, or leave "
                "the file's name out"
            )
        commit = found.parents[len(inner.parts) - 1].name
        if file is None or inner.name in WEIGHTS_FILES:
            for other in (CONFIG_FILE, PREPROCESSOR_FILE):
                get(str(inner.with_name(other)), commit)
        if file is None and weights:
            _fetch_weights(hub_id, lambda name: get(name, commit))
        return found.parent if file is None else found


def _fetch_weights(hub_id: str, get: Callable[[str], Path | None]) -> None:
    weights = next((path for path in map(get, WEIGHTS_FILES) if path is not None), None)
    if weights is None:
        raise CheckpointError(
            f"{hub_id} on the hub has no weights; expected {WEIGHTS_FILES[0]} in it"
        )
    if weights.suffix == ".json":
        for shard in read_json(weights, WeightsIndex, CheckpointError).files:
            if get(shard) is None:
                raise CheckpointError(f"{hub_id} on the hub lacks {shard}, which its index names")


def _why_unreachable() -> str | None:
    """Ask the hub for anything, and say why it does not answer; None where it does.

    The client has no such question: without a network it tries each file again and again, for more
    than 20 seconds, and so do its versions 0.36, 1.x and 2.x in different ways.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _OFFLINE
    patience = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or _PATIENCE)
    reasons: list[str] = []

    def ask() -> None:
        try:
            # Through the proxy of the environment, as the client does.
            request = Request(constants.ENDPOINT, method="HEAD")
            build_opener().open(request, timeout=2 * patience).close()
        except HTTPError:
            return  # an answer
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            if not isinstance(reason, ssl.SSLError):  # the client may have other certificates
                reasons.append(_first_line(reason))

    # A thread, because looking up a name has no timeout.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience)
    if asking.is_alive():
        return f"no answer within {patience:g} s; HF_HUB_ETAG_TIMEOUT=SECONDS waits longer"
    return reasons[0] if reasons else None


def _fetch_file(
    hub_id: str,
    unreachable: str | None,
    client: Mapping[str, Any],
    name: str,
    revision: str | None,
) -> Path | None:
    """Fetch one file, or find it in the cache; None where the model has no such file.

    `unreachable` says why only the cache is asked; None where the hub answers.
    """
    # Imported here: it takes a while, and most models do not come from the hub.
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    cached = unreachable is not None
    try:
        found = hf_hub_download(hub_id, name, revision=revision, local_files_only=cached, **client)
        return Path(found)
    except errors.LocalEntryNotFoundError as error:
        # The hub was not asked. The cache knows of a file that was missing when it was.
        cache = client.get("cache_dir")
        known = try_to_load_from_cache(hub_id, name, cache_dir=cache, revision=revision)
        if known is not None and not isinstance(known, str):
            return None
        line = (
            f"cannot reach the hub for {name} of {hub_id}, and it is not in the cache "
            f"({unreachable or _first_line(error.__cause__ or error)}); check the network, or give "
            "a folder"
        )
        if unreachable in (_OFFLINE, _CACHE_ONLY):
            line = f"{name} of {hub_id} is not in the cache, and {unreachable}"
        raise CheckpointError(line) from error
    except errors.EntryNotFoundError:
        return None
    # A RuntimeError is what 1.3 raises of a connection that it has closed itself.
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:  # pyright: ignore[reportPrivateImportUsage]
        match error:
            case errors.GatedRepoError():
                line = (
                    f"{hub_id} is gated; accept its terms on its page on the hub, then run "
                    "`hf auth login` or set HF_TOKEN"
                )
            case errors.RepositoryNotFoundError():
                line = (
                    f"{hub_id!r} is neither a file or folder here nor a model on the hub; check "
                    "the name (a private model needs `hf auth login` or HF_TOKEN)"
                )
            case errors.RevisionNotFoundError():
                line = f"{hub_id} on the hub has no revision {revision!r}"
            case errors.HFValidationError():
                line = f"{hub_id!r} is not a name that the hub allows: {_first_line(error)}"
            case errors.HfHubHTTPError():
                status = error.response.status_code
                line = f"the hub refused {name} of {hub_id} with status {status}; try again later"
            case _:
                line = f"fetching {name} of {hub_id} broke off ({_first_line(error)}); run it again"
        raise CheckpointError(line) from error


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Keep the client from logging every try: what fails in the end is said in one line."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _first_line(error: object) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model that can be named instead of a folder.

    Attributes:
        name: what `panodetr.load` takes.
        where: "bundled" with the package, "cached" from the hub, or "published" there only.
        task: what it finds.
        figures: what it reached, in percent, as `Published.figures`; empty where unknown.
        data: what the figures were measured on; None where unknown.
        licence: of the weights, by SPDX, or where to read it; None where unknown.
        size: bytes of the weights, here or, if they are not here, as float32.
    """

    name: str
    where: Literal["bundled", "cached", "published"]
    task: Literal["panoptic", "detection"]
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    data: str | None = None
    licence: str | None = None
    size: int


def list_models() -> list[KnownModel]:
    """List the bundled models, those in the hub's cache, and the published ones.

    It needs neither torch nor a network. A published model that is in the cache is listed once.
    Whatever else is in the cache, or is broken there, is left out.

    Raises:
        CheckpointError: a bundled model is broken.
    """
    cached = {model.name: model for model in sorted(_cached(), key=attrgetter("name"))}
    published: list[KnownModel] = []
    for model in PUBLISHED:
        here = cached.pop(model.hub_id, None)
        published.append(
            KnownModel(
                name=model.hub_id,
                where="cached" if here else "published",
                task=_TASKS[model.architecture.masks],
                figures=model.figures,
                data=model.data,
                licence=model.licence,
                size=here.size if here else model.size,
            )
        )
    return [*(_bundled(*pair) for pair in bundled().items()), *cached.values(), *published]


def _bundled(name: str, folder: Path) -> KnownModel:
    file = folder / METRICS_FILE
    metrics = read_json(file, dict[str, Any], CheckpointError) if file.is_file() else {}
    return KnownModel(
        name=name,
        where="bundled",
        task=_TASKS[read_folder(folder, name).architecture.masks],
        figures={key: 100 * value for key, value in metrics.items() if isinstance(value, float)},
        data=metrics.get("data"),
        licence="Apache-2.0",  # as the package; docs/models
        size=sum(file.stat().st_size for file in folder.iterdir()),
    )


def _cached() -> Iterator[KnownModel]:
    """List the checkpoints in the hub's cache, of each the revision that was changed last."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    with suppress(CacheNotFound, ValueError, OSError):
        for repository in scan_cache_dir(constants.HF_HUB_CACHE).repos:
            if repository.repo_type != "model" or not repository.revisions:
                continue
            newest = max(repository.revisions, key=attrgetter("last_modified"))
            files = {file.file_name: file.size_on_disk for file in newest.files}
            if files.keys().isdisjoint(WEIGHTS_FILES):
                continue
            with suppress(CheckpointError):
                spec = read_folder(newest.snapshot_path, repository.repo_id)
                if spec.is_backbone:
                    continue
                yield KnownModel(
                    name=repository.repo_id,
                    where="cached",
                    task=_TASKS[spec.architecture.masks],
                    size=sum(files.values()),
                )


def read_folder(folder: Path, name: str) -> ModelSpec:
    """Read the specification in a folder of this package or of transformers.

    Args:
        folder: has a `config.json`.
        name: what to call a model of transformers, which has no name of its own.

    Raises:
        CheckpointError: there is no configuration, it is another model's, or it is broken.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{file} is not there; a checkpoint is a folder with {CONFIG_FILE} and {SAFETENSORS}"
        )
    config = read_json(file, dict[str, Any], CheckpointError)
    if config.get("format") == FORMAT:
        return spec_from_json(config, str(file))
    read = _READERS.get(str(config.get("model_type")))
    if read is None:
        raise CheckpointError(
            f"{file} is neither a panodetr configuration nor one of a DETR or EoMT in "
            f"transformers; its model_type is {config.get('model_type')!r}"
        )
    extra = folder / PREPROCESSOR_FILE
    preprocessor = read_json(extra, dict[str, Any], CheckpointError) if extra.is_file() else {}
    try:
        return read(config, preprocessor, name)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
