"""What is measured, and the floors that must hold: one row for each claim."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from harness.image import SAMPLE
from panodetr.errors import UsageError
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import RESNET101, DetrConfig

SideName: TypeAlias = Literal[
    "segment-theirs",
    "segment-torch",
    "segment-shared",
    "segment-openvino",
    "segment-int8",
    "all-masks",
    "detect-theirs",
    "detect-torch",
    "detect-openvino",
    "prepare-theirs",
    "prepare-ours",
    "finish",
    "finish-noise",
    "int8-on-data",
    "bf16-on-data",
    "start",
]
"""A process that does one piece of work; `harness.run` makes them."""


LEAST_ON_DATA = 0.9
"""Of the queries that PyTorch keeps in float32, int8 and bf16 must give so many the same class, and
boxes and masks must overlap with themselves by so much in the mean. Stricter than `panodetr
export`, which refuses a file below one half: that one is broken, this one would be a bad
bargain."""


@dataclass(frozen=True, kw_only=True)
class Floors:
    """What must hold; None where nothing is asked.

    Attributes:
        faster: least quotient of the other side's median time and ours.
        memory: our peak memory is at most this part of the other side's.
        share: our median time is at most this part of the other side's.
        seconds: our median time is at most this.
        agreement: on data, least part of the queries with the same class, and least mean IoU of
            boxes and of masks.
    """

    faster: float | None = None
    memory: float | None = None
    share: float | None = None
    seconds: float | None = None
    agreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison.

    Attributes:
        name: for the command line.
        what: for the table.
        side: our process.
        lap: which of its times counts.
        against: the process that it is compared with; None where there is none, and its own name
            where another of its laps is the measure.
        against_lap: which of its times.
        floors: what must hold.
        compared: "exactly", the sides' answers must be the same within rounding; "loosely", both
            must keep as many queries, and how near these come is told; "on data", our side compares
            two forms of one model on a data set; None where there is nothing to compare.
        share: whether our time is told as a part of the other's, not how many times it fits in.
        times: measured so many times as often as the slowest rows are.
    """

    name: str
    what: str
    side: SideName
    lap: str = "whole"
    against: SideName | None = None
    against_lap: str = "whole"
    floors: Floors = field(default_factory=Floors)
    compared: Literal["exactly", "loosely", "on data"] | None = "exactly"
    share: bool = False
    times: int = 1


ROWS = (
    Row(
        name="segment",
        what="segment, 15 kept, PyTorch",
        side="segment-torch",
        against="segment-theirs",
        floors=Floors(faster=8, memory=1 / 7),
    ),
    Row(
        name="segment-shared",
        what="segment, 15 kept, with transformers' model in memory",
        side="segment-shared",
        against="segment-theirs",
    ),
    Row(
        name="segment-openvino",
        what="segment, 15 kept, OpenVINO float32",
        side="segment-openvino",
        against="segment-theirs",
        floors=Floors(faster=12),
    ),
    Row(
        name="segment-int8",
        what="segment, 15 kept by a threshold of its own, OpenVINO int8 calibrated on this image",
        side="segment-int8",
        against="segment-theirs",
        floors=Floors(faster=25),
        compared="loosely",
    ),
    Row(
        name="all-masks",
        what="DetrForSegmentation(...), 100 masks, PyTorch",
        side="all-masks",
        lap="model",
        against="segment-theirs",
        against_lap="model",
        floors=Floors(faster=5, memory=1 / 4),
    ),
    Row(
        name="detect",
        what="detect, PyTorch",
        side="detect-torch",
        against="detect-theirs",
        floors=Floors(faster=1.4),
        times=3,
    ),
    Row(
        name="detect-openvino",
        what="detect, OpenVINO float32",
        side="detect-openvino",
        against="detect-theirs",
        floors=Floors(faster=2),
        times=3,
    ),
    Row(
        name="prepare",
        what="12-megapixel image to tensor",
        side="prepare-ours",
        against="prepare-theirs",
        floors=Floors(faster=2),
        times=5,
    ),
    Row(
        name="finish",
        what="merging, id map as PNG, JSON, overlay as JPEG at 1280 by 960, of the network's time",
        side="finish",
        lap="results",
        against="finish",
        against_lap="model",
        floors=Floors(share=0.05),
        compared=None,
        share=True,
        times=3,
    ),
    Row(
        name="finish-noise",
        what="the same where masks are noise: the mask head's random kernels not smoothed",
        side="finish-noise",
        lap="results",
        against="finish-noise",
        against_lap="model",
        compared=None,
        share=True,
        times=3,
    ),
    Row(
        name="int8-on-data",
        what="model nuclei, OpenVINO int8, against PyTorch float32",
        side="int8-on-data",
        lap="other",
        against="int8-on-data",
        against_lap="reference",
        floors=Floors(agreement=LEAST_ON_DATA),
        compared="on data",
    ),
    Row(
        name="bf16-on-data",
        what="model nuclei, PyTorch bfloat16 on the CPU, against float32",
        side="bf16-on-data",
        lap="other",
        against="bf16-on-data",
        against_lap="reference",
        floors=Floors(agreement=LEAST_ON_DATA),
        compared="on data",
    ),
    Row(
        name="import",
        what="python -c 'import panodetr'",
        side="start",
        lap="import",
        floors=Floors(seconds=0.3),
        compared=None,
        times=5,
    ),
    Row(
        name="help",
        what="panodetr --help",
        side="start",
        lap="help",
        floors=Floors(seconds=0.5),
        compared=None,
        times=5,
    ),
)
"""The rows of the table, in its order."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much work is compared.

    Attributes:
        segmenter: the network with masks.
        detector: the network without.
        kept: queries that become segments.
        rule: how images are fed to both.
        image: file of the image that is resized to the sizes below, each height and width.
        fed: what the network gets as it is.
        large: what is prepared.
        saved: what results are saved of.
    """

    segmenter: DetrConfig = field(
        default_factory=lambda: DetrConfig(backbone=RESNET101, num_classes=250, masks=True)
    )
    detector: DetrConfig = field(
        default_factory=lambda: DetrConfig(backbone=RESNET101, num_classes=91)
    )
    kept: int = 15
    rule: Preprocessing = field(default_factory=Preprocessing)
    image: Path = SAMPLE
    fed: tuple[int, int] = (800, 1066)
    large: tuple[int, int] = (3000, 4000)
    saved: tuple[int, int] = (960, 1280)


def choose_rows(names: list[str]) -> tuple[Row, ...]:
    """Find rows by their names, in the table's order; none means all.

    Raises:
        UsageError: there is no row of a name.
    """
    known = [row.name for row in ROWS]
    for name in names:
        if name not in known:
            raise UsageError(f"there is no row {name!r}; expected some of {', '.join(known)}")
    return tuple(row for row in ROWS if not names or row.name in names)
