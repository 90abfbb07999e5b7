"""What a model process does: load the models, then answer batches."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from panodetr.errors import ImageError, PanodetrError
from panodetr.images.read import read_image
from panodetr.predict import DETECTION_THRESHOLD
from panodetr.serve.answers import write_answer
from panodetr.serve.api import CategoryInfo, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection

    from panodetr.predict import Predictor
    from panodetr.serve.api import Work
    from panodetr.serve.options import ServiceOptions


class Answer(NamedTuple):
    """What became of one image.

    Attributes:
        status: 200, 415 (not an image), 422 (not for this model) or 500.
        body: the answer; with other statuses than 200 one line of error.
        fault: a traceback for the log, of status 500.
    """

    status: int
    body: bytes
    fault: str = ""


def run_models(
    connection: Connection[Any, Any],
    sources: Mapping[str, str],
    options: ServiceOptions,
    threads: int,
) -> None:
    """Be a model process: send the models' descriptions, or one line of error, then answer.

    Signals are the front process's affair; when it is gone the connection ends, and so does this.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    from panodetr.loading import load

    try:
        models = {
            name: load(source, device=options.device, runtime=options.runtime)
            for name, source in sources.items()
        }
    except PanodetrError as error:
        connection.send(str(error))
        return
    with suppress(EOFError, OSError):  # the front process is gone
        connection.send([describe(name, model) for name, model in models.items()])
        while True:
            work, images = connection.recv()
            connection.send(answer_batch(models[work.model], work, images, options.max_pixels))
            give_back_memory()


def give_back_memory() -> None:
    """Give free memory back to the system, where the C library is GNU's.

    It keeps the pieces between blocks that live, and batches of many sizes leave ever more of them.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def describe(name: str, model: Predictor) -> ModelInfo:
    """Describe a model for clients."""
    return ModelInfo(
        name=name,
        task="panoptic" if model.spec.architecture.masks else "detection",
        categories=[
            CategoryInfo(id=c.id, name=c.name, isthing=int(c.is_thing), color=c.color)
            for c in model.categories
        ],
        threshold=model.spec.threshold,
    )


def answer_batch(
    model: Predictor, work: Work, images: Sequence[bytes], max_pixels: int
) -> list[Answer]:
    """Answer images that ask for the same work, in their order.

    An image that cannot be decoded fails alone; so does one whose work fails unexpectedly.
    """
    answers: list[Answer | None] = [None] * len(images)
    opened: dict[int, Any] = {}
    for index, image in enumerate(images):
        try:
            opened[index] = read_image(image, max_pixels=max_pixels)
        except ImageError as error:
            answers[index] = Answer(415, str(error).encode())
    try:
        if work.action == "segment":
            results: Any = model.segment_each(
                opened.values(), threshold=work.threshold, task=work.task
            )
        else:
            results = model.detect_each(
                opened.values(),
                threshold=DETECTION_THRESHOLD if work.threshold is None else work.threshold,
                masks=work.masks is not None,
            )
        for index, result in zip(opened, results, strict=True):
            answers[index] = Answer(200, write_answer(result, work))
    except PanodetrError as error:  # of the work, not of an image
        return [Answer(422, str(error).encode())] * len(images)
    except Exception:
        if len(images) > 1:
            return [answer_batch(model, work, [image], max_pixels)[0] for image in images]
        return [
            Answer(500, b"the model failed; the service's log has more", traceback.format_exc())
        ]
    return [answer for answer in answers if answer is not None]
