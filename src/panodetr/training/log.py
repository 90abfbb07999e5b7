"""The log of a run, as lines and as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from panodetr.errors import PanodetrError
from panodetr.files import write_text, written_whole

if TYPE_CHECKING:
    from pathlib import Path

    from panodetr.training.loop import Progress


def check_plots() -> None:
    """See that the picture can be drawn, before hours have gone into a run.

    Raises:
        PanodetrError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise PanodetrError(
            "training draws its curve with matplotlib, which is not installed; "
            "pip install 'panodetr[train]'"
        )


def append(path: Path, progress: Progress) -> None:
    """Add a line to a log, in place of the ones that a killed run wrote past its last state."""
    before = [line for line in read(path) if line["step"] < progress.step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in [*before, asdict(progress)]))


def read(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log; none where there is no log yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def plot(log: Path, picture: Path) -> None:
    """Draw each loss, the learning rate and the speed over the steps."""
    from matplotlib.figure import Figure

    lines = read(log)
    names = list({name: None for line in lines for name in line["losses"]})
    curves = {
        name: [(line["step"], line["losses"][name]) for line in lines if name in line["losses"]]
        for name in names
    }
    for name in ("learning_rate", "crops_per_second"):
        curves[name.replace("_", " ")] = [(line["step"], line[name]) for line in lines]
    figure = Figure(figsize=(12, 2.5 * -(-len(curves) // 3)), layout="constrained")
    for place, (name, points) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(-(-len(curves) // 3), 3, place)
        axes.plot(*zip(*points, strict=True))
        axes.set_title(name)
        axes.grid(alpha=0.3)
    with written_whole(picture) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
