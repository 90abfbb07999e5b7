"""What a request says: the image in its body, and the media type that it accepts."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import AsyncGenerator, Sequence

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from panodetr.errors import UsageError
from panodetr.images.read import read_size
from panodetr.serve.api import Given, HostedParameters, HostedRequest, Shown
from panodetr.serve.errors import RequestError
from panodetr.validation import decode_json

_FORM = b"multipart/form-data"


def choose_media_type(accept: str, offered: Sequence[str]) -> str:
    """Choose the media type that a client likes best, of those that are offered, ours first.

    Raises:
        RequestError: it accepts none of them (406).
    """
    liked: dict[str, float] = {}
    for part in (accept or "*/*").split(","):
        kind, options = parse_options_header(part.strip())
        try:
            liked[kind.decode()] = float(options.get(b"q", 1))
        except ValueError:
            liked[kind.decode()] = 1.0

    def liking(media: str) -> float:
        return max(liked.get(kind, 0) for kind in (media, f"{media.split('/')[0]}/*", "*/*"))

    best = max(offered, key=liking)  # of equals the first
    if not liking(best) > 0:
        raise RequestError(406, f"this answers {', '.join(offered)}; accept one of these")
    return best


async def image_of_body(body: bytes, headers: Headers) -> bytes:
    """Give the image of a body that is an image file, or a form with one in the field `image`.

    Whatever else the content type says, the image's own first bytes say what it is.

    Raises:
        RequestError: the form is broken (400) or has no image (415).
    """
    kind, _ = parse_options_header(headers.get("content-type"))
    return (await _read_form(body, headers, "image"))[0] if kind == _FORM else body


async def shown_in_body(body: bytes, headers: Headers) -> Given:
    """Give the image of a form, and what is to be written of it, from the field `shown`.

    Raises:
        RequestError: the form is broken (400) or lacks a field (415).
        UsageError: the JSON is invalid.
    """
    image, shown = await _read_form(body, headers, "image", "shown")
    return Given(image, decode_json(shown, Shown, "shown", UsageError))


async def _read_form(body: bytes, headers: Headers, *fields: str) -> list[bytes]:
    """Give the files of a form by their fields."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(headers, chunks(), max_part_size=len(body))
    parser.spool_max_size = len(body)  # nothing goes to the disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:  # no content type
        raise RequestError(400, "the body is not a valid multipart form") from error
    try:
        files: list[bytes] = []
        for field in fields:
            given = form.getlist(field)
            if len(given) != 1:
                raise RequestError(415, f"the form has {len(given)} fields {field!r}; expected one")
            file = given[0]
            files.append(await file.read() if isinstance(file, UploadFile) else file.encode())
        return files
    finally:
        await form.close()


def hosted_image(body: bytes) -> tuple[bytes, HostedParameters]:
    """Give the image and the parameters of a request to the hosted endpoint.

    The body is an image file, or JSON; no image file begins with a brace.

    Raises:
        RequestError: `inputs` is a URL (422) or not base64 (415).
        UsageError: the JSON is invalid.
    """
    if body.lstrip(b" \t\r\n")[:1] != b"{":
        return body, HostedParameters()
    request = decode_json(body, HostedRequest, "the body", UsageError)
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
        ImageError: it is not an image.
        RequestError: it is too large (413).
    """
    height, width = read_size(image, max_pixels=1 << 62)
    if height * width > max_pixels:
        raise RequestError(
            413,
            f"the image has {width}x{height} pixels, and the limit is {max_pixels:,}; "
            "make it smaller",
        )
    return height * width
