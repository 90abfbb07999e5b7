"""What a request says: its query, the image in its body, and the form of the answer it accepts."""

from __future__ import annotations

import binascii
import math
import re
from base64 import b64decode
from typing import TYPE_CHECKING, Any, TypeVar

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from panodetr.errors import ImageError, UsageError
from panodetr.images.read import read_size
from panodetr.serve.api import HostedParameters, HostedRequest
from panodetr.serve.errors import RequestError
from panodetr.validation import check, decode_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")
F = TypeVar("F", bound=str)

IMAGE_FIELD = "image"
"""The field of a multipart body that holds the image."""


def read_query(query: Mapping[str, str], expected: type[T]) -> T:
    """Check the parameters of a request's URL.

    Raises:
        RequestError: one is unknown or out of bounds (422).
    """
    try:
        return check(dict(query), expected, "the query", UsageError, strict=False)
    except UsageError as error:
        raise RequestError(422, str(error)) from error


def choose_form(accept: str, offered: Sequence[F]) -> F:
    """Choose the media type that a client likes best, of those that are offered, ours first.

    Raises:
        RequestError: it accepts none of them (406).
    """
    liked: dict[str, float] = {}
    for part in (accept or "*/*").replace(" ", "").split(","):
        kind, _, quality = part.lower().partition(";q=")
        liked[kind] = float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 1.0

    def liking(media: str) -> float:
        return max(liked.get(kind, 0) for kind in (media, f"{media.split('/')[0]}/*", "*/*"))

    best = max(offered, key=liking)  # of equals the first
    if not liking(best):
        raise RequestError(406, f"this answers {', '.join(offered)}; accept one of these")
    return best


def image_of_body(body: bytes, content_type: str) -> bytes:
    """Give the image of a body that is an image file, or a form with one in the field `image`.

    Whatever else the content type says, the image's own first bytes say what it is.

    Raises:
        RequestError: the form is broken (400) or has no image (415).
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return body
    images: list[bytes] = []

    def keep_field(field: Any) -> None:
        if field.field_name == IMAGE_FIELD.encode():
            images.append(field.value or b"")

    def keep_file(file: Any) -> None:
        if file.field_name == IMAGE_FIELD.encode():
            file.file_object.seek(0)
            images.append(file.file_object.read())
        file.close()

    try:
        parser = FormParser(
            "multipart/form-data",
            keep_field,
            keep_file,
            boundary=options.get(b"boundary"),
            config={"MAX_MEMORY_FILE_SIZE": math.inf},  # nothing goes to the disk
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RequestError(400, "the body is not a valid multipart form") from error
    if len(images) != 1:
        raise RequestError(
            415, f"the form has {len(images)} fields {IMAGE_FIELD!r}; expected one, with an image"
        )
    return images[0]


def hosted_image(body: bytes) -> tuple[bytes, HostedParameters]:
    """Give the image and the parameters of a request to the hosted endpoint.

    The body is an image file, or JSON; no image file begins with a brace.

    Raises:
        RequestError: the JSON is invalid (422), or `inputs` is no image (415).
    """
    if body.lstrip(b" \t\r\n")[:1] != b"{":
        return body, HostedParameters()
    try:
        request = decode_json(body, HostedRequest, "the body", UsageError)
    except UsageError as error:
        raise RequestError(422, str(error)) from error
    inputs = request.inputs.strip()
    if "://" in inputs[:16]:
        raise RequestError(422, "inputs is a URL, and none is fetched; send the image itself")
    try:
        image = b64decode(inputs.partition(",")[2] if inputs.startswith("data:") else inputs)
    except (binascii.Error, ValueError) as error:
        raise RequestError(415, "inputs is not base64; expected an image file in it") from error
    return image, request.parameters or HostedParameters()


def count_pixels(image: bytes, max_pixels: int) -> int:
    """Read the size of an image from its header.

    Raises:
        RequestError: it is not an image (415), or too large (413).
    """
    try:
        height, width = read_size(image, max_pixels=1 << 62)
    except ImageError as error:
        raise RequestError(415, str(error)) from error
    if height * width > max_pixels:
        raise RequestError(
            413,
            f"the image has {width}x{height} pixels, and the limit is {max_pixels:,}; "
            "make it smaller",
        )
    return height * width
