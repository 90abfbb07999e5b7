"""Measure rows: start their sides, run them in turns, and compare what came out.

What fails costs its own rows alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.agreement import OnData
from harness.compare import Agreement, compare, compare_loosely
from harness.image import BenchImage
from harness.ours import AllMasks, Detecting, Finishing, Preparing, Segmenting, Starting
from harness.process import Side, SideFailed, in_fresh_process
from harness.rows import Scale
from harness.theirs import SharedSegmenting, TheirDetecting, TheirPreparing, TheirSegmenting
from panodetr.errors import PanodetrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harness.process import Answer, Job, Laps
    from harness.rows import Row, SideName
    from harness.weights import RandomModel
    from panodetr.model.config import DetrConfig

EXPORT_SECONDS = 1800
AGREEING = ("classes", "box_iou", "mask_iou")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What one side needed.

    Attributes:
        seconds: of every round.
        peak: most memory of its process, in bytes.
    """

    seconds: tuple[float, ...]
    peak: int

    @property
    def median(self) -> float:
        """Seconds of the median round."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A row with its figures.

    Attributes:
        row: what was measured.
        ours: None where it failed.
        theirs: None where it failed, or where there is nothing to compare with.
        agreement: of the answers; None where there is nothing to compare.
        error: what failed, one line; None where nothing did.
    """

    row: Row
    ours: Spent | None = None
    theirs: Spent | None = None
    agreement: Agreement | None = None
    error: str | None = None

    @property
    def faster(self) -> float | None:
        """The other side's median time divided by ours."""
        if self.ours is None or self.theirs is None:
            return None
        return self.theirs.median / self.ours.median

    @property
    def memory(self) -> float | None:
        """Our peak memory, as a part of the other side's; None where they are one process."""
        if self.ours is None or self.theirs is None or self.row.side == self.row.against:
            return None
        return self.ours.peak / self.theirs.peak

    @property
    def agreeing(self) -> float:
        """The least of the figures that `Floors.agreement` is about; 0 where there are none."""
        if self.agreement is None:
            return 0.0
        return min(self.agreement.figures.get(name, 0.0) for name in AGREEING)

    @property
    def holds(self) -> bool:
        """Whether the same was done, and every floor is reached."""
        if self.error is not None or self.ours is None:
            return False
        if self.agreement is not None and self.agreement.same is False:
            return False
        floors, infinite = self.row.floors, float("inf")
        return (
            (floors.faster is None or (self.faster or 0) >= floors.faster)
            and (floors.share is None or 1 / (self.faster or 1e-9) <= floors.share)
            and (floors.memory is None or (self.memory or infinite) <= floors.memory)
            and (floors.seconds is None or self.ours.median <= floors.seconds)
            and (floors.agreement is None or self.agreeing >= floors.agreement)
        )


class Workshop:
    """Makes what the sides need, each thing once and in a fresh process, in a folder."""

    def __init__(self, folder: Path, scale: Scale, threads: int, data: Path | None = None) -> None:
        """Make nothing yet.

        Args:
            folder: for models and exported files.
            scale: how large they are.
            threads: of every process.
            data: a data set with a split `val`, for the rows on data; None has none.
        """
        self.folder = folder
        self.scale = scale
        self.threads = threads
        self.data = data

    @cached_property
    def segmenter(self) -> RandomModel:
        """A model with masks; errors as for `in_fresh_process`."""
        return self._random("segmenter", self.scale.segmenter)

    @cached_property
    def detector(self) -> RandomModel:
        """A model without; errors as for `in_fresh_process`."""
        return self._random("detector", self.scale.detector)

    @cached_property
    def noisy_segmenter(self) -> RandomModel:
        """A model whose masks are noise; errors as for `in_fresh_process`."""
        return self._random("noisy-segmenter", self.scale.segmenter, smooth=False)

    def image(self, size: tuple[int, int]) -> BenchImage:
        """Give the image in a size."""
        return BenchImage(file=self.scale.image, size=size)

    def job(self, side: SideName) -> Job:
        """Say what a side does.

        Raises:
            SideFailed: what it needs cannot be made.
            UsageError: it needs a data set, and there is none.
        """
        scale, fed = self.scale, self.image(self.scale.fed)
        match side:
            case "segment-theirs":
                return partial(TheirSegmenting, self.segmenter, fed)
            case "segment-torch":
                return partial(Segmenting, self.segmenter.folder, fed, "torch")
            case "segment-shared":
                return partial(SharedSegmenting, self.segmenter, fed)
            case "segment-openvino":
                return partial(Segmenting, self.segmenter.folder, fed, "openvino")
            case "segment-int8":
                exported = self.int8(self.segmenter.folder, self._calibration())
                return partial(Segmenting, exported, fed, kept=scale.kept)
            case "all-masks":
                return partial(AllMasks, self.segmenter, fed)
            case "detect-theirs":
                return partial(TheirDetecting, self.detector, fed)
            case "detect-torch":
                return partial(Detecting, self.detector, fed, "torch")
            case "detect-openvino":
                return partial(Detecting, self.detector, fed, "openvino")
            case "prepare-theirs":
                return partial(TheirPreparing, self.image(scale.large), scale.rule)
            case "prepare-ours":
                return partial(Preparing, self.image(scale.large), scale.rule)
            case "finish":
                return partial(Finishing, self.segmenter, self.image(scale.saved), scale.kept)
            case "finish-noise":
                image = self.image(scale.saved)
                return partial(Finishing, self.noisy_segmenter, image, scale.kept)
            case "int8-on-data" | "bf16-on-data":
                if self.data is None:
                    raise UsageError("this row needs a data set with a split val; give --data")
                if side == "bf16-on-data":
                    return partial(OnData, "nuclei", "nuclei", self.data, precision="bfloat16")
                exported = self.int8("nuclei", self.data / "train")
                return partial(OnData, "nuclei", exported, self.data)
            case "start":
                return Starting

    def _random(self, name: str, architecture: DetrConfig, *, smooth: bool = True) -> RandomModel:
        fed, folder = self.image(self.scale.fed), self.folder / name
        write = partial(_write_random_model, folder, architecture, fed, self.scale, smooth=smooth)
        return in_fresh_process(write, self.threads)

    def _calibration(self) -> Path:
        """Write the image into a folder of its own."""
        folder = self.folder / "calibration"
        folder.mkdir(exist_ok=True)
        self.image(self.scale.fed).image().save(folder / "image.png")
        return folder

    def int8(self, model: str | Path, images: Path) -> Path:
        """Export a model for OpenVINO with int8 weights and activations.

        Raises:
            SideFailed: `panodetr export` failed.
        """
        file = self.folder / f"{Path(model).name}-int8"
        command = [sys.executable, "-m", "panodetr", "export", str(model), "--format", "openvino"]
        command += ["--int8", "--calibration", str(images), "--out", str(file)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=EXPORT_SECONDS,
            env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise SideFailed(f"the int8 file could not be exported: {lines[-1]}")
        return file


def measure(
    rows: Sequence[Row],
    scale: Scale,
    *,
    repeats: int,
    threads: int,
    data: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[list[Measured]]:
    """Measure rows, those with the same other side together, and give them as they are done.

    Args:
        rows: what to measure.
        scale: how large the work is.
        repeats: rounds of the slowest rows; quick ones have more.
        threads: of every process.
        data: a data set with a split `val`, for the rows on data.
        progress: told what is being done.
    """
    tell = progress or _silently
    groups: dict[SideName, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.against or row.side, []).append(row)
    with tempfile.TemporaryDirectory(prefix="panodetr-bench-") as folder:
        workshop = Workshop(Path(folder), scale, threads, data)
        for group in groups.values():
            yield measure_group(group, workshop, repeats, tell)


def _silently(_: str) -> None:
    """Tell nobody."""


def _write_random_model(
    folder: Path, architecture: DetrConfig, image: BenchImage, scale: Scale, *, smooth: bool
) -> RandomModel:
    """Import torch where this is called: in a process that may."""
    from harness.weights import write_random_model

    return write_random_model(folder, architecture, image, scale.kept, scale.rule, smooth=smooth)


class _Group:
    """The sides of some rows, and what came of each."""

    def __init__(self, workshop: Workshop, tell: Callable[[str], None], stack: ExitStack) -> None:
        self._workshop = workshop
        self._tell = tell
        self._stack = stack
        self._alive: dict[SideName, Side] = {}
        self.answers: dict[SideName, Answer] = {}
        self.laps: dict[SideName, list[Laps]] = {}
        self.peaks: dict[SideName, int] = {}
        self.errors: dict[SideName, str] = {}

    def start(self, name: SideName) -> None:
        """Make a side ready, and let it work once: the first time is slower than the others."""
        self._tell(f"{name}: starts")
        try:
            side = self._stack.enter_context(Side(self._workshop.job(name), self._workshop.threads))
            self.answers[name] = side.answer()
        except (PanodetrError, OSError, subprocess.TimeoutExpired) as error:
            self.errors[name] = " ".join(str(error).split())
            return
        self._alive[name] = side
        self.laps[name] = []

    def run_in_turns(self, rounds: int) -> None:
        """Let every side that is alive work so often, one after the other."""
        for number in range(1, rounds + 1):
            for name in list(self._alive):
                self._tell(f"{name}: round {number} of {rounds}")
                self._try(name, lambda side, name=name: self.laps[name].append(side.run()))
        for name in list(self._alive):
            self._try(name, lambda side, name=name: self.peaks.update({name: side.peak()}))

    def spent(self, name: SideName | None, lap: str) -> Spent | None:
        """Give what a side needed; None where it failed."""
        if name is None or name not in self.peaks:
            return None
        seconds = tuple(laps[lap] for laps in self.laps[name])
        return Spent(seconds=seconds, peak=self.peaks[name])

    def _try(self, name: SideName, act: Callable[[Side], None]) -> None:
        try:
            act(self._alive[name])
        except SideFailed as error:
            self.errors[name] = str(error)
            self._alive.pop(name).close()


def measure_group(
    rows: list[Row], workshop: Workshop, repeats: int, tell: Callable[[str], None]
) -> list[Measured]:
    """Measure rows that have the same other side."""
    with ExitStack() as stack:
        group = _Group(workshop, tell, stack)
        ours: dict[SideName, None] = dict.fromkeys(row.side for row in rows)
        for name in ours:
            group.start(name)
        # Theirs is by far the slowest: not for nothing.
        if any(name in group.laps for name in ours):
            theirs = rows[0].against  # of all of them
            if theirs is not None and theirs not in ours:
                group.start(theirs)
        group.run_in_turns(repeats * max(row.times for row in rows))
    return [_measured(row, group, workshop.scale.kept) for row in rows]


def _measured(row: Row, group: _Group, kept: int) -> Measured:
    both = dict.fromkeys((row.side, row.against))
    failed = [f"{name}: {group.errors[name]}" for name in both if name in group.errors]
    return Measured(
        row=row,
        ours=group.spent(row.side, row.lap),
        theirs=group.spent(row.against, row.against_lap),
        agreement=_agreement(row, group.answers, kept),
        error="; ".join(failed) or None,
    )


def _agreement(row: Row, answers: dict[SideName, Answer], kept: int) -> Agreement | None:
    """Compare the answers of a row's sides, where both have one."""
    if row.compared is None or row.side not in answers or row.against not in answers:
        return None
    if row.compared == "on data":
        return OnData.agreement(answers[row.side])
    hold = compare if row.compared == "exactly" else compare_loosely
    return hold(answers[row.side], answers[row.against], kept)
