"""Videos of overlays, written by PyAV (the extra `video`)."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panodetr.errors import MissingExtra, PanodetrError
from panodetr.files import atomic_write

if TYPE_CHECKING:
    from numpy.typing import NDArray

CODECS = ("libx264", "mpeg4")
"""The first one that PyAV has is used; browsers play H.264."""


class VideoWriter:
    """Writes an MP4 frame by frame; the file appears when it is complete."""

    def __init__(self, path: Path, rate: float) -> None:
        """Open the file within `with`.

        Args:
            path: of the MP4.
            rate: frames a second.

        Raises:
            MissingExtra: PyAV is not installed.
        """
        try:
            import av
        except ImportError as error:
            raise MissingExtra("writing a video", "video") from error
        self._av: Any = av
        self._path = path
        self._rate = Fraction(rate).limit_denominator(1001)
        self._opened = ExitStack()
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        """Open a temporary file.

        Raises:
            PanodetrError: the system refuses to write.
        """
        temporary = self._opened.enter_context(atomic_write(self._path))
        self._file: Any = self._opened.enter_context(self._av.open(str(temporary), "w"))
        return self

    def __exit__(self, *error: Any) -> None:
        """Put the file into its place, unless there was an error."""
        if error[0] is None and self._stream is not None:
            self._encode(None)
        self._opened.__exit__(*error)

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame (H, W, 3); all have one size. An odd side loses a row or column.

        Raises:
            PanodetrError: it cannot be encoded.
        """
        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._stream is None:
            codec = next(name for name in CODECS if name in self._av.codecs_available)
            self._stream = self._file.add_stream(codec, rate=self._rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
        pixels = np.ascontiguousarray(frame[:height, :width])
        self._encode(self._av.VideoFrame.from_ndarray(pixels, format="rgb24"))

    def _encode(self, frame: Any) -> None:
        try:
            self._file.mux(self._stream.encode(frame))
        except self._av.FFmpegError as error:
            raise PanodetrError(f"cannot write {self._path}: {error}") from error
