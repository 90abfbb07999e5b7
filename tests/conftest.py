"""What every test may ask for: the shared data, and a deterministic hypothesis."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run: a red test is red again when it is run alone. No deadline, because
# the first call into torch is slow and the machines differ.
settings.register_profile(
    "panodetr",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("panodetr")

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and golden outputs, described in its own README.md."""
    folder = Path(os.environ.get("PANODETR_DATA", PROJECT.parent / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set PANODETR_DATA to the folder that holds nuclei/")
    return folder


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> Path:
    """The outputs of the original implementation."""
    return shared_data / "golden"
