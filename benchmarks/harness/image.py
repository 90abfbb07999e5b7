"""The image that every side gets: a real one, resized to what the comparison asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import panodetr
from panodetr.images.read import read_image

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
