"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from panodetr.errors import UsageError
from panodetr.runtimes.base import Precision, RuntimeName, check_device

if TYPE_CHECKING:
    from panodetr.data.dataset import Source
    from panodetr.predict import Predictor
    from panodetr.scale.engines import Cluster

Format = Literal[
    "coco-panoptic", "coco-instances", "yolo", "labelme", "via", "voc-masks", "voc-xml",
    "mask-files", "id-maps", "imagefolder",
]  # fmt: skip
"""Of data sets. `panodetr.data` defines them too, and takes longer to import."""

AtLeast1 = Annotated[int, Parameter(validator=Number(gte=1))]
"""How many, at least one."""

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
    page: AtLeast1 | None = None
    every: AtLeast1 = 1
    out: str | None = None
    json: bool = False
    resume: bool = False


@Parameter(name="*", group="Formats of other programs")
@dataclass(frozen=True, kw_only=True)
class FormatOptions:
    """What is written beside the overlay and the JSON.

    Attributes:
        coco: Write all images' objects to this file, as COCO instances; of panoptic results
            NAME_panoptic.json beside it, as COCO panoptic, of the id maps in the folder of --out.
        geojson: Write NAME.geojson for each image: polygons with holes and measurements, for
            QuPath.
        labels: Write NAME_labels.tif for each image: 16 or 32 bits, a pixel's value is its
            object's id; for napari, Cellpose, StarDist and ImageJ.
        rois: Write NAME_rois.zip for each image: polygons for ImageJ. Needs roifile.
        csv: Write objects.csv: a row for each object of all images, with its area, position, box
            and mean intensities.
        crops: Write each object of an image to the folder NAME_crops, cut out.
        label_studio: Write label_studio.json: tasks with predictions for Label Studio's import.
        pixel_size: Micrometres that a pixel is wide, for --csv and --geojson. Default: what the
            file says, if it says so.
    """

    coco: Path | None = None
    geojson: bool = False
    labels: bool = False
    rois: bool = False
    csv: bool = False
    crops: bool = False
    label_studio: bool = False
    pixel_size: Annotated[float | None, Parameter(validator=Number(gt=0))] = None

    @property
    def asked(self) -> list[str]:
        """The names of the formats that are asked for, as on the command line."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return [n.replace("_", "-") for n, value in given.items() if value and n != "pixel_size"]

    @property
    def of_all_images(self) -> list[str]:
        """The names of those that are one file of all images."""
        return [name for name in self.asked if name in ("coco", "csv", "label-studio")]


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
        overlap: Least overlap of neighbouring tiles, as a fraction of --tiles; only with --tiles.
            Default: 0.25.
        bits: Bits that the values of 16-bit images fill: of 12, 4095 is white. Default: the
            model's own, which training has found, or all 16.
        channels: Of images of more than three channels, those that are red, green and blue, as
            0,2,1, or the one that is grey. They count from 0. Default: the model's own.
        max_memory: GiB that one image may take, beside the model; a larger one is refused before it
            is decoded. Default: what the machine has, and 200 megapixels at most.
    """

    model: str = "nuclei"
    device: Device = "auto"
    runtime: RuntimeName | None = None
    precision: Precision = "float32"
    batch: AtLeast1 | None = None
    tiles: AtLeast1 | None = None
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


@Parameter(name="*", group="Large runs")
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a large run is shared out.

    Attributes:
        engine: Write tables with a row per image instead of files for each image: local works in
            this process, ray on a Ray cluster. For eval, ray shares the images out.
        address: Address of the Ray cluster. Default: RAY_ADDRESS, or a cluster started here.
        workers: Most workers of the cluster. Default: as many as it has room for.
        worker_cpus: CPU cores of each worker. Where the cluster has GPUs, each worker takes one.
        part_size: Image files in a part; an archive, a table or a video is a part by itself.
        parts: What a part is: parquet has a row per image; coco-panoptic is COCO's JSON with a
            folder of id maps.
    """

    engine: Literal["local", "ray"] | None = None
    address: str | None = None
    workers: AtLeast1 | None = None
    worker_cpus: AtLeast1 = 1
    part_size: AtLeast1 = 256
    parts: Literal["parquet", "coco-panoptic"] = "parquet"

    def cluster(self, model: ModelOptions) -> Cluster:
        """Give the cluster and workers that the options ask for.

        Raises:
            UsageError: workers cannot share the device.
        """
        from panodetr.scale.engines import Cluster

        gpus = {"auto": None, "cpu": 0, "cuda": 1}
        if model.device not in gpus:
            raise UsageError(
                f"device is {model.device!r}; on a Ray cluster expected {', '.join(gpus)}: each "
                "worker takes a GPU of its own"
            )
        return Cluster(
            address=self.address,
            workers=self.workers,
            cpus=self.worker_cpus,
            gpus=gpus[model.device],
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What `segment` and `detect` have in common.

    Attributes:
        files: Which images are taken, and where results go.
        formats: What is written beside.
        engine: How a large run is shared out.
        model: Which model, and how it runs.
    """

    files: FileOptions = field(default_factory=FileOptions)
    formats: FormatOptions = field(default_factory=FormatOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
