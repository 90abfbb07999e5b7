"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from panodetr.errors import UsageError
from panodetr.runtimes.base import check_device

if TYPE_CHECKING:
    from panodetr.data.dataset import Source
    from panodetr.predict import Predictor

Runtime = Literal["torch", "openvino", "onnx", "auto"]
Format = Literal[
    "coco-panoptic", "coco-instances", "yolo", "labelme", "via", "voc-masks", "voc-xml",
    "mask-files", "id-maps", "imagefolder",
]  # fmt: skip
"""Of data sets. `panodetr.data` defines them too, and takes longer to import."""

Fraction = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]
"""A number from 0 to 1."""


def _check_device(_: object, name: str) -> None:
    check_device(name)


Device = Annotated[str, Parameter(validator=_check_device)]
"""Where a model runs."""

OVERLAP = 0.25
"""Part of a tile that its neighbours share, unless the user says otherwise."""


@Parameter(name="*", group="Data")
@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where a data set's parts are, if they cannot be found.

    Attributes:
        annotations: The annotation file to use. Default: look for them in the folder.
        images: The folder in which images are looked for. Default: all of the data set's folder.
        exif: What was annotated where EXIF turns an image and sizes don't show it: the image as
            it is shown, or as it is stored. Default: as the format's tools do.
    """

    annotations: Path | None = None
    images: Path | None = None
    exif: Literal["shown", "stored"] | None = None

    def open(self, folder: Path) -> Source:
        """Look what a folder holds.

        Raises:
            DataError: there is no such folder or file.
        """
        from panodetr.data.dataset import Source

        return Source(folder, annotations=self.annotations, images=self.images, exif=self.exif)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Which images are taken, and where results go.

    Attributes:
        recursive: Look into folders within folders.
        page: Take this page of each file, from 1. Default: each page of a TIFF or GIF is an image.
        every: Take each n-th frame of a video.
        out: The folder for files. Default: panodetr-out; with --json alone, no files are written.
        json: Print one JSON object per image, one per line, and nothing else on stdout.
        resume: Leave out images whose files are in the folder already.
    """

    recursive: Annotated[bool, Parameter(negative="--no-recursive")] = True
    page: Annotated[int | None, Parameter(validator=Number(gte=1))] = None
    every: Annotated[int, Parameter(validator=Number(gte=1))] = 1
    out: str | None = None
    json: bool = False
    resume: bool = False


@Parameter(name="*", group="Model")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it runs.

    Attributes:
        model: A bundled model, a checkpoint's folder or file, an exported file, or an id on the
            Hugging Face hub. `panodetr models` lists names.
        device: Where to compute: cpu, cuda, cuda:1, mps, or auto, a CUDA GPU where there is one.
        runtime: What runs the model. openvino and onnx convert a checkpoint first: export it once.
            auto takes an exported file beside the checkpoint, if there is one that runs here.
            Default: torch, and for an exported file its own.
        precision: What PyTorch computes in. bfloat16 rounds, and is for GPUs and for processors
            with instructions for it.
        batch: Images or tiles that run together. Default: as many as suit the device.
        tiles: Cut larger images into squares of this many pixels, whose results are joined.
            Default: the model's own.
        overlap: Least overlap of neighbouring tiles, as a fraction of --tiles. Default: 0.25.
        bits: Bits that the values of 16-bit images fill: of 12, 4095 is white. Default: the
            model's own, which training has found, or all 16.
        channels: Of images of more than three channels, those that are red, green and blue, as
            0,2,1, or the one that is grey. They count from 0. Default: the model's own.
        max_memory: GiB that one image may take, beside the model; a larger one is refused before it
            is decoded. Default: what the machine has, and 200 megapixels at most.
    """

    model: str = "nuclei"
    device: Device = "auto"
    runtime: Runtime | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    batch: Annotated[int | None, Parameter(validator=Number(gte=1))] = None
    tiles: Annotated[int | None, Parameter(validator=Number(gte=1))] = None
    overlap: Fraction | None = None
    bits: Annotated[int | None, Parameter(validator=Number(gte=8, lte=16))] = None
    channels: str | None = None
    max_memory: Annotated[float | None, Parameter(validator=Number(gt=0))] = None

    def load(self) -> Predictor:
        """Load the model, with the tiles that are asked for.

        Raises:
            UsageError: there is an overlap without tiles, or it is that of a whole tile, or
                channels are not numbers.
            PanodetrError: the model or the device was refused.
        """
        if self.tiles is None and self.overlap is not None:
            raise UsageError("--overlap is for --tiles; give both")
        tiles = self.tiles
        overlap = round((tiles or 0) * (OVERLAP if self.overlap is None else self.overlap))
        if tiles is not None and overlap >= tiles:
            raise UsageError(
                f"tiles of {tiles} pixels cannot overlap by {overlap}; give a smaller --overlap"
            )
        channels = None if self.channels is None else self.channels.split(",")
        if channels is not None and not all(number.strip().isdecimal() for number in channels):
            raise UsageError(f"--channels {self.channels}: expected numbers from 0, as 0,2,1")
        import panodetr

        model = panodetr.load(
            self.model,
            device=self.device,
            runtime=self.runtime,
            precision=self.precision,
            batch=self.batch,
            bits=self.bits,
            channels=None if channels is None else [int(number) for number in channels],
        )
        if self.max_memory is not None:
            from panodetr.images.read import pixels_within

            model.batching.max_pixels = pixels_within(int(self.max_memory * 2**30))
        if tiles is None:
            return model
        return model.with_rule(replace(model.spec.preprocessing, tile=tiles, tile_overlap=overlap))
