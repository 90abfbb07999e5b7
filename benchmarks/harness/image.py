"""The image that every side gets: a real one, resized to what the comparison asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import panodetr
from panodetr.images.read import read_image
from panodetr.images.sources import find_sources

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE = Path(panodetr.__file__).parent / "assets" / "samples" / "stained-tissue.png"


@dataclass(frozen=True, kw_only=True)
class BenchImage:
    """An image of a chosen size.

    Attributes:
        file: where it comes from.
        size: height and width that it is resized to.
    """

    file: Path
    size: tuple[int, int]

    def image(self) -> Image.Image:
        """Decode it.

        Raises:
            ImageError: the file cannot be read.
        """
        height, width = self.size
        return Image.fromarray(read_image(self.file)).resize((width, height))

    def pixels(self) -> NDArray[np.uint8]:
        """Decode it as an array (H, W, 3); errors as for `image`."""
        return np.array(self.image())


def link_images(data: Path, folder: Path, numbers: Iterable[int]) -> list[Path]:
    """Link or copy the images of a folder, again and again, under numbers into another one."""
    folder.mkdir(parents=True)
    found = [Path(source.path) for source in find_sources([data])]
    links: list[Path] = []
    for number in numbers:
        source = found[number % len(found)]
        links.append(folder / f"{number:06}{source.suffix}")
        try:
            links[-1].hardlink_to(source.resolve())
        except OSError:  # on another file system
            links[-1].write_bytes(source.read_bytes())
    return links
