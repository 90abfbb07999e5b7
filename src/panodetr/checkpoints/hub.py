"""Checkpoints on the Hugging Face hub, through huggingface_hub, and the list of all known models.

The client's cache, token, endpoint and offline mode are set by its own environment variables
(`HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`). A transfer that breaks goes on where it
stopped: with version 2 of the client at once, several times, and with older ones at the next call.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, build_opener

from panodetr.checkpoints.huggingface import MODEL_TYPES
from panodetr.checkpoints.published import PUBLISHED, bundled
from panodetr.checkpoints.spec import (
    CONFIG_FILE,
    FORMAT,
    METRICS_FILE,
    PREPROCESSOR_FILE,
    WEIGHTS_FILES,
    WeightsIndex,
    read_config,
    read_spec,
    spec_from_json,
)
from panodetr.errors import CheckpointError
from panodetr.validation import read_json

_PATIENCE = 1.5  # seconds that the hub may take for its first answer
_OFFLINE = "offline mode is on; unset HF_HUB_OFFLINE to fetch it"


def fetch(hub_id: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """Fetch a checkpoint's files, and only those that are needed, all of one commit.

    Args:
        hub_id: `owner/name`.
        revision: branch, tag or commit; None takes the main branch.
        weights: whether the weights are needed, or only what describes them.

    Returns:
        A folder of the cache.

    Raises:
        CheckpointError: there is no such model, it may not be read, or the hub cannot be reached
            and the cache does not have it.
    """
    with _quiet():
        hub = _Hub(hub_id, _why_unreachable())
        config = hub.fetch(CONFIG_FILE, revision)
        if config is None:
            raise CheckpointError(f"{hub_id} on the hub has no {CONFIG_FILE}; is it a model?")
        commit = config.parent.name
        hub.fetch(PREPROCESSOR_FILE, commit)
        if weights:
            _fetch_weights(hub, commit)
        return config.parent


def fetch_file(hub_id: str, name: str, revision: str | None = None) -> Path:
    """Fetch one file of weights, and what describes it where it is a model's usual file.

    Args:
        hub_id: `owner/name`.
        name: of the file, with the folders that it lies in there.
        revision: branch, tag or commit; None takes the main branch.

    Returns:
        The file in the cache.

    Raises:
        CheckpointError: as `fetch`, or the model has no such file.
    """
    inner = PurePosixPath(name)
    with _quiet():
        hub = _Hub(hub_id, _why_unreachable())
        file = hub.fetch(name, revision)
        if file is None:
            raise CheckpointError(
                f"{hub_id} on the hub has no file {name}; see its list of files there, or leave "
                "the file's name out"
            )
        if inner.name in WEIGHTS_FILES:
            commit = file.parents[len(inner.parts) - 1].name
            for other in (CONFIG_FILE, PREPROCESSOR_FILE):
                hub.fetch(str(inner.with_name(other)), commit)
        return file


def _fetch_weights(hub: _Hub, commit: str) -> None:
    for name in WEIGHTS_FILES:
        weights = hub.fetch(name, commit)
        if weights is None:
            continue
        if weights.suffix != ".json":
            return
        for shard in read_json(weights, WeightsIndex, CheckpointError).files:
            if hub.fetch(shard, commit) is None:
                raise CheckpointError(
                    f"{hub.hub_id} on the hub lacks {shard}, which its index names"
                )
        return
    raise CheckpointError(
        f"{hub.hub_id} on the hub has no weights; expected {WEIGHTS_FILES[0]} in it"
    )


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


@dataclass(frozen=True)
class _Hub:
    """One repository on the hub.

    Attributes:
        hub_id: `owner/name`.
        unreachable: why only the cache is asked; None where the hub answers.
    """

    hub_id: str
    unreachable: str | None

    def fetch(self, name: str, revision: str | None) -> Path | None:
        """Fetch one file, or find it in the cache; None where the model has no such file.

        Raises:
            CheckpointError: as for `fetch`.
        """
        # Imported here: it takes a while, and most models do not come from the hub.
        from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

        hub_id = self.hub_id
        try:
            return Path(
                hf_hub_download(
                    hub_id,
                    name,
                    revision=revision,
                    local_files_only=self.unreachable is not None,
                )
            )
        except errors.LocalEntryNotFoundError as error:
            # The hub was not asked. The cache knows of a file that was missing when it was.
            known = try_to_load_from_cache(hub_id, name, revision=revision)
            if known is not None and not isinstance(known, str):
                return None
            raise CheckpointError(self._missing(name, error)) from error
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:
            raise CheckpointError(
                f"{hub_id} is gated; accept its terms on its page on the hub, then run `hf auth "
                "login` or set HF_TOKEN"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise CheckpointError(
                f"{hub_id!r} is neither a file or folder here nor a model on the hub; check the "
                "name (a private model needs `hf auth login` or HF_TOKEN)"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise CheckpointError(f"{hub_id} on the hub has no revision {revision!r}") from error
        except errors.HFValidationError as error:
            raise CheckpointError(
                f"{hub_id!r} is not a name that the hub allows: {_first_line(error)}"
            ) from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            raise CheckpointError(
                f"the hub refused {name} of {hub_id} with status {status}; try again later"
            ) from error
        # A RuntimeError is what 1.3 raises of a connection that it has closed itself.
        except (errors.HTTPError, OSError, RuntimeError) as error:  # pyright: ignore[reportPrivateImportUsage]
            raise CheckpointError(
                f"fetching {name} of {hub_id} broke off ({_first_line(error)}); run it again"
            ) from error

    def _missing(self, name: str, error: Exception) -> str:
        """Say that a file is not in the cache, and why the hub was not asked."""
        if self.unreachable == _OFFLINE:
            return f"{name} of {self.hub_id} is not in the cache, and {_OFFLINE}"
        reason = self.unreachable or _first_line(error.__cause__ or error)
        return (
            f"cannot reach the hub for {name} of {self.hub_id}, and it is not in the cache "
            f"({reason}); check the network, or give a folder"
        )


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
        licence: of the weights, by SPDX; None where unknown.
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
    cached = {model.name: model for model in _cached()}
    published = [
        KnownModel(
            name=model.hub_id,
            where="cached" if model.hub_id in cached else "published",
            task=_task(masks=model.architecture.masks),
            figures=model.figures,
            data=model.data,
            licence=model.licence,
            size=cached[model.hub_id].size if model.hub_id in cached else model.size,
        )
        for model in PUBLISHED
    ]
    known = {model.hub_id for model in PUBLISHED}
    others = [cached[name] for name in sorted(cached) if name not in known]
    return [*(_bundled(*pair) for pair in bundled().items()), *others, *published]


def _bundled(name: str, folder: Path) -> KnownModel:
    metrics: dict[str, Any] = {}
    if (folder / METRICS_FILE).is_file():
        metrics = read_json(folder / METRICS_FILE, dict[str, Any], CheckpointError)
    return KnownModel(
        name=name,
        where="bundled",
        task=_task(masks=read_spec(folder).architecture.masks),
        figures={key: 100 * value for key, value in metrics.items() if isinstance(value, float)},
        data=metrics.get("data"),
        licence="Apache-2.0",  # as the package; docs/models
        size=sum(file.stat().st_size for file in folder.iterdir()),
    )


def _cached() -> Iterator[KnownModel]:
    """List the checkpoints in the hub's cache, of each the revision that was changed last."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError, OSError):
        return
    for repository in repositories:
        if repository.repo_type != "model" or not repository.revisions:
            continue
        newest = max(repository.revisions, key=lambda revision: revision.last_modified)
        files = {file.file_name: file.size_on_disk for file in newest.files}
        if not files.keys() & set(WEIGHTS_FILES):
            continue
        try:
            config = read_config(newest.snapshot_path)
            if config.get("format") == FORMAT:
                masks = spec_from_json(config).architecture.masks
            elif config.get("model_type") in MODEL_TYPES:
                masks = "DetrForSegmentation" in str(config.get("architectures"))
            else:
                continue
        except CheckpointError:
            continue
        yield KnownModel(
            name=repository.repo_id,
            where="cached",
            task=_task(masks=masks),
            size=sum(files.values()),
        )


def _task(*, masks: bool) -> Literal["panoptic", "detection"]:
    return "panoptic" if masks else "detection"
