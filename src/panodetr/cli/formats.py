"""Results in the formats of other programs, as `panodetr segment` and `detect` write them."""

from __future__ import annotations

import io
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.files import check_writable, write_bytes, write_json, write_picture, write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from panodetr.cli.options import FormatOptions
    from panodetr.results.result import ImageResult


class FormatWriter:
    """Writes what `FormatOptions` ask for: an image at a time, and the rest at the end."""

    def __init__(
        self, options: FormatOptions, out: Path, model: str, images: Iterable[Path]
    ) -> None:
        """Write nothing yet.

        Args:
            options: what is asked for.
            out: the folder for files.
            model: its name.
            images: all that are to come: files of all images call each by its path from the folder
                that holds them all, so that two of one name can be distinguished.

        Raises:
            PanodetrError: a file that is written at the end cannot be.
        """
        from panodetr.results.interchange import CocoInstances, CocoPanoptic

        self._options = options
        self._out = out
        self._model = model
        folders = {str(image.absolute().parent) for image in images}
        try:
            self._root = Path(os.path.commonpath(folders))
        except ValueError:  # on several drives
            self._root = None
        self._instances = CocoInstances()
        self._panoptic = CocoPanoptic()
        self._rows: list[dict[str, object]] = []
        self._tasks: list[dict[str, object]] = []
        if options.coco is not None:
            check_writable(options.coco)

    def add(self, result: ImageResult, json_file: Path) -> dict[str, Path]:
        """Write an image's own files beside its JSON, keep what files of all images need.

        Returns:
            The files, or the folder, of each format.

        Raises:
            PanodetrError: the system refused to write, a library is missing, or detections have
                no masks where a format needs them.
        """
        from PIL import Image

        from panodetr.images.depth import read_pixel_size
        from panodetr.results import interchange
        from panodetr.results.regions import crop, measure
        from panodetr.results.result import PanopticResult

        options = self._options
        stem = json_file.with_suffix("")
        image_name = None
        source = result.source
        if isinstance(source, str):
            image_name = source
        elif source is not None and self._root is not None:
            image_name = source.absolute().relative_to(self._root).as_posix()
        pixel_size = options.pixel_size
        if pixel_size is None and isinstance(source, Path) and (options.csv or options.geojson):
            pixel_size = read_pixel_size(source)
        files: dict[str, Path] = {}
        if options.geojson:
            files["geojson"] = stem.with_name(f"{stem.name}.geojson")
            write_json(files["geojson"], result.to_geojson(pixel_size=pixel_size))
        if options.labels:
            files["labels"] = stem.with_name(f"{stem.name}_labels.tif")
            write_bytes(files["labels"], interchange.label_tiff(result))
        if options.rois:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for name, roi in interchange.imagej_rois(result):
                    archive.writestr(f"{_file_name(name)}.roi", roi)
            files["rois"] = stem.with_name(f"{stem.name}_rois.zip")
            write_bytes(files["rois"], packed.getvalue())
        if options.crops:
            files["crops"] = stem.with_name(f"{stem.name}_crops")
            for region, pixels in crop(result):
                name = _file_name(f"{region.id}-{region.label}")
                write_picture(files["crops"] / f"{name}.png", Image.fromarray(pixels))
        if options.coco is not None:
            self._instances.add(result, name=image_name)
            if isinstance(result, PanopticResult):
                id_map = f"{json_file.stem}_panoptic.png"
                self._panoptic.add(result, result.to_dict(), id_map, name=image_name)
        if options.csv:
            self._rows += measure(result, name=image_name, pixel_size=pixel_size)
        if options.label_studio:
            self._tasks.append(
                interchange.to_label_studio(result, model=self._model, name=image_name)
            )
        return files

    def add_rows(self, result: ImageResult, name: str, more: Mapping[str, object]) -> None:
        """Keep a row for each object of a video's frame; `more` says which frame it is."""
        from panodetr.results.regions import measure

        rows = measure(result, name=name, pixel_size=self._options.pixel_size)
        self._rows += [{**row, **more} for row in rows]

    def finish(self) -> list[Path]:
        """Write the files that all images share.

        Raises:
            PanodetrError: the system refused to write.
        """
        from panodetr.results.interchange import to_csv

        written: list[Path] = []
        coco = self._options.coco
        if coco is not None:
            write_json(coco, self._instances.document())
            written.append(coco)
            if self._panoptic.images:
                written.append(coco.with_name(f"{coco.stem}_panoptic.json"))
                write_json(written[-1], self._panoptic.document())
        if self._options.csv:
            written.append(self._out / "objects.csv")
            write_text(written[-1], to_csv(self._rows))
        if self._options.label_studio:
            written.append(self._out / "label_studio.json")
            write_json(written[-1], self._tasks)
        return written


def _file_name(text: str) -> str:
    """Leave out what file systems refuse."""
    return re.sub(r"[^\w.-]+", "_", text)
