"""What a measurement was made on: figures without it cannot be compared."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

PACKAGES = (
    "panodetr", "torch", "transformers", "openvino", "nncf", "onnxruntime", "numpy", "pillow",
)  # fmt: skip


class Machine(TypedDict):
    """The place and the time of a measurement.

    Attributes: `caches` by level and kind, such as "L2 Unified", as the system writes their size;
    `memory` in bytes; `versions` of what is installed.
    """

    date: str
    system: str
    processor: str
    cores: int
    caches: dict[str, str]
    memory: int
    python: str
    versions: dict[str, str]


def describe_machine() -> Machine:
    """Describe this machine; what its system does not tell stays empty."""
    return Machine(
        date=datetime.now(UTC).date().isoformat(),
        system=platform.platform(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        caches=_caches(),
        memory=_memory(),
        python=platform.python_version(),
        versions=_versions(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _caches() -> dict[str, str]:
    """Read what Linux tells of the first core's caches."""
    caches: dict[str, str] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text("utf-8").strip() for name in ("level", "type", "size")
            )
        except OSError:  # some virtual machines leave files out
            continue
        caches[f"L{level} {kind}"] = size
    return caches


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # not every system counts its pages
        return 0


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
