"""What a model process does: load the models, then answer batches."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from panodetr.errors import ImageError, PanodetrError
from panodetr.images.read import read_image
from panodetr.predict import DETECTION_THRESHOLD
from panodetr.serve.answers import write_answer, write_file
from panodetr.serve.api import ModelInfo
from panodetr.serve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection

    from panodetr.predict import Predictor
    from panodetr.serve.api import Given, Work
    from panodetr.serve.options import ServiceOptions


def run_models(
    connection: Connection[Any, Any],
    sources: Mapping[str, str],
    options: ServiceOptions,
    threads: int,
) -> None:
    """Run a model process: send the models' descriptions, or an error, then answer requests.

    The front process handles signals. When it is gone, the connection ends and this process, too.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    from panodetr.loading import load

    try:
        run = {key: getattr(options, key) for key in ("device", "runtime", "precision", "batch")}
        models = {name: load(source, **run) for name, source in sources.items()}
    except PanodetrError as error:
        connection.send(PanodetrError(str(error)))  # others may not come through a pipe
        return
    with suppress(EOFError, OSError):  # the front process is gone
        connection.send([describe(name, model) for name, model in models.items()])
        while True:
            work, given = connection.recv()
            connection.send(answer_batch(models[work.model], work, given, options.max_pixels))
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
        categories=list(model.categories),
        threshold=model.spec.threshold,
    )


def answer_batch(
    model: Predictor, work: Work, given: Sequence[Given], max_pixels: int
) -> Sequence[bytes | RequestError]:
    """Answer images that ask for the same work, in their order; one that fails does so alone."""
    rule = model.spec.preprocessing
    read = partial(read_image, bits=rule.bits, channels=rule.channels, max_pixels=max_pixels)
    try:
        images = [read(one.image) for one in given]
        if work.action == "write":
            written = zip(given, images, strict=True)
            return [write_file(one, image, model.categories, work.form) for one, image in written]
        if work.action == "segment":
            model = model.with_merge(**dict(work.merge)) if work.merge else model
            results: Any = model.segment(images, threshold=work.threshold, task=work.task)
        else:
            least = DETECTION_THRESHOLD if work.threshold is None else work.threshold
            results = model.detect(images, threshold=least, masks=work.masks is not None)
        return [write_answer(result, work) for result in results]
    except Exception as error:
        if len(given) > 1:
            return [answer_batch(model, work, [one], max_pixels)[0] for one in given]
        if isinstance(error, PanodetrError):
            return [RequestError(415 if isinstance(error, ImageError) else 422, str(error))]
        detail = "the model failed; the service's log has more"
        return [RequestError(500, detail, fault=traceback.format_exc())]
