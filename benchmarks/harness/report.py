"""What was measured, as JSON, and its figures in words."""

from __future__ import annotations

import math
from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.compare import Agreement
    from harness.machine import Machine
    from harness.rows import Floors
    from harness.run import Measured, Spent

_GIB = 1 << 30
_MIB = 1 << 20


def as_json(
    rows: Iterable[Measured], machine: Machine, *, repeats: int, threads: int
) -> dict[str, Any]:
    """Give everything that was measured, ready for JSON."""
    return {
        "machine": machine,
        "threads": threads,
        "repeats": repeats,
        "rows": [_row(measured) for measured in rows],
    }


def _row(measured: Measured) -> dict[str, Any]:
    return {
        "name": measured.row.name,
        "what": measured.row.what,
        "ours": _spent(measured.ours),
        "theirs": _spent(measured.theirs),
        "faster": measured.faster,
        "memory": measured.memory,
        "share": measured.row.share,
        "floors": asdict(measured.row.floors),
        "holds": measured.holds,
        "agreement": _agreement(measured.agreement),
        "error": measured.error,
    }


def _agreement(agreement: Agreement | None) -> dict[str, Any] | None:
    """Give what the sides have in common; JSON has no word for a difference without bounds."""
    if agreement is None:
        return None
    figures = {k: v if math.isfinite(v) else None for k, v in agreement.figures.items()}
    return asdict(agreement) | {"figures": figures}


def _spent(spent: Spent | None) -> dict[str, Any] | None:
    if spent is None:
        return None
    return {"median": spent.median, "seconds": list(spent.seconds), "peak_bytes": spent.peak}


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown, its first line the headings."""
    shown = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    shown.insert(1, ["---"] * len(shown[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in shown)


def duration(seconds: float) -> str:
    """Write seconds, or milliseconds where there are few."""
    rounded = round(seconds, 3)  # 999.6 ms are a second
    return f"{seconds:.2f} s" if rounded >= 1 else f"{1000 * seconds:.3g} ms"


def size(count: float) -> str:
    """Write bytes in GiB, or MiB where there are few."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.0f} MiB"


def describe_floors(floors: Floors) -> str:
    """Write what must hold; nothing where nothing must."""
    parts: list[str] = []
    if floors.faster is not None:
        parts.append(f"≥ {floors.faster:g}x")
    if floors.memory is not None:
        parts.append(f"≤ {Fraction(floors.memory).limit_denominator(100)} of the memory")
    if floors.share is not None:
        parts.append(f"≤ {100 * floors.share:g} %")
    if floors.seconds is not None:
        parts.append(f"≤ {floors.seconds:g} s")
    if floors.agreement is not None:
        parts.append(f"agreement ≥ {floors.agreement:g}")
    return ", ".join(parts)
