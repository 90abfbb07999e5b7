"""The models that come with the package, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from panodetr.checkpoints.native import CONFIG_FILE
from panodetr.errors import CheckpointError

MODELS = Path(__file__).parents[1] / "assets" / "models"


def bundled(models: Path = MODELS) -> dict[str, Path]:
    """List the bundled models: name to checkpoint folder, by name."""
    return {config.parent.name: config.parent for config in sorted(models.glob(f"*/{CONFIG_FILE}"))}


def resolve(name_or_folder: str | Path, models: Path = MODELS) -> Path:
    """Find the checkpoint that a user means.

    A bundled name wins over a folder of the same name; `./name` is always the folder.

    Raises:
        CheckpointError: there is neither; the message lists the bundled names.
    """
    known = bundled(models)
    if isinstance(name_or_folder, str) and name_or_folder in known:
        return known[name_or_folder]
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    near = difflib.get_close_matches(str(name_or_folder), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CheckpointError(
        f"{str(name_or_folder)!r} is neither a bundled model nor a folder; {hint}"
        f"bundled: {', '.join(known) or 'none'}"
    )
