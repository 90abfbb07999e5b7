"""The models that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

from panodetr.checkpoints.native import CONFIG_FILE

MODELS = Path(__file__).parents[1] / "assets" / "models"


def bundled(models: Path = MODELS) -> dict[str, Path]:
    """List the bundled models: name to checkpoint folder, by name."""
    return {config.parent.name: config.parent for config in sorted(models.glob(f"*/{CONFIG_FILE}"))}
