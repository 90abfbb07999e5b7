"""Checkpoints on the Hugging Face hub, through huggingface_hub.

Its cache, token, endpoint and offline mode are set as everywhere, by its environment variables
(`HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`). A transfer that breaks is taken up where
it stopped, several times; once given up, the next call begins that file anew.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from panodetr.checkpoints.native import CONFIG_FILE
from panodetr.checkpoints.weights import PREPROCESSOR_FILE, WEIGHTS_FILES
from panodetr.errors import CheckpointError

_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        return _fetch_all(hub_id, revision, weights)


def fetch_file(hub_id: str, name: str, revision: str | None = None) -> Path:
    """Fetch one file of weights, and with a model's usual one what describes it, if that is there.

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
        file = _fetch(hub_id, name, revision)
        if file is None:
            raise CheckpointError(
                f"{hub_id} on the hub has no file {name}; see its list of files there, or leave "
                "the file's name out"
            )
        if inner.name in WEIGHTS_FILES:
            commit = file.parents[len(inner.parts) - 1].name
            for other in (CONFIG_FILE, PREPROCESSOR_FILE):
                _fetch(hub_id, str(inner.with_name(other)), commit)
        return file


def _fetch_all(hub_id: str, revision: str | None, wanted: bool) -> Path:
    config = _fetch(hub_id, CONFIG_FILE, revision)
    if config is None:
        raise CheckpointError(f"{hub_id} on the hub has no {CONFIG_FILE}; is it a model?")
    commit = config.parent.name
    _fetch(hub_id, PREPROCESSOR_FILE, commit)
    if not wanted:
        return config.parent
    for name in WEIGHTS_FILES:
        weights = _fetch(hub_id, name, commit)
        if weights is not None:
            if weights.suffix == ".json":
                _fetch_shards(hub_id, weights, commit)
            return config.parent
    raise CheckpointError(f"{hub_id} on the hub has no weights; expected {WEIGHTS_FILES[0]} in it")


def stated_digest(file: Path) -> str | None:
    """Give the SHA-256 that the hub stated of a large file in its cache; None where it is unknown.

    The cache keeps files under their entity tags, and links to them: a large file's is its digest.
    """
    tag = file.resolve().name
    return tag if _SHA256.fullmatch(tag) else None


def _fetch_shards(hub_id: str, index: Path, commit: str) -> None:
    """Fetch the files that an index names; what is wrong with it is said when it is read."""
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    for name in sorted(map(str, names)):
        if _fetch(hub_id, name, commit) is None:
            raise CheckpointError(f"{hub_id} on the hub lacks {name}, which its index names")


def _fetch(hub_id: str, name: str, revision: str | None) -> Path | None:
    """Fetch one file, or find it in the cache; None where the model has no such file."""
    # Imported here: it takes a while, and most models do not come from the hub.
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    try:
        return Path(hf_hub_download(hub_id, name, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        # The hub was not asked. The cache knows of a file that was missing when it was.
        known = try_to_load_from_cache(hub_id, name, revision=revision)
        if known is not None and not isinstance(known, str):
            return None
        raise CheckpointError(_unreachable(hub_id, name, error)) from error
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{hub_id} is gated; accept its terms on its page on the hub, then run `hf auth login` "
            "or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{hub_id!r} is neither a file or folder here nor a model on the hub; check the name "
            "(a private model needs `hf auth login` or HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{hub_id} on the hub has no revision {revision!r}") from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{hub_id!r} is no name that the hub allows: {error}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise CheckpointError(
            f"the hub refused {name} of {hub_id} with status {status}; try again later"
        ) from error
    except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        raise CheckpointError(
            f"fetching {name} of {hub_id} broke off ({_first_line(error)}); run it again"
        ) from error


def _unreachable(hub_id: str, name: str, error: Exception) -> str:
    """Say why the hub was not asked."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error.__cause__, OfflineModeIsEnabled):
        return (
            f"{name} of {hub_id} is not in the cache, and offline mode is on; unset HF_HUB_OFFLINE "
            "to fetch it"
        )
    reason = _first_line(error.__cause__ or error)
    return (
        f"cannot reach the hub for {name} of {hub_id}, and it is not in the cache ({reason}); "
        "check the network, or give a folder"
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


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
