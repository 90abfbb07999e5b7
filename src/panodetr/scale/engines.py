"""Runs the items of a job on the workers of a Ray cluster.

A worker is a Ray actor that has loaded the model and has one item at a time. An item whose worker
died is given to another one; a worker that died is replaced when the cluster has room.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter, deque
from contextlib import contextmanager, redirect_stdout, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from panodetr.errors import PanodetrError, UsageError, import_extra, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from panodetr.evaluation.ground_truth import GroundTruth, Task
    from panodetr.evaluation.metrics import Counts
    from panodetr.predict import Predictor

Item = TypeVar("Item")
Result = TypeVar("Result")

TRIES = 3
"""Workers that may die at one item before it is given up."""

PATIENCE = 600.0
"""Seconds within which the first worker must start."""

STORE = 200 << 20
"""Bytes of shared memory of a cluster that is started here; results are small."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster to use, and the workers to start there.

    Attributes:
        address: of the cluster; None takes that of RAY_ADDRESS, or starts one on this machine.
        workers: how many at most; None takes as many as there is room for.
        cpus: CPU cores of each worker.
        gpus: GPUs of each worker; None takes one where the cluster has any.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: int | None = None


@dataclass(frozen=True)
class Lost:
    """In place of the result of an item at which workers died."""

    reason: str


def run_ray(
    load: Callable[[], Predictor],
    work: Callable[[Predictor, Item], Result],
    items: Sequence[Item],
    cluster: Cluster,
) -> Iterator[tuple[int, Result | Lost]]:
    """Do the work on a Ray cluster; give each result, as it comes, with its item's number.

    Work may be done again, if a worker dies before its result has come.

    Args:
        load: loads the model, once in each worker.
        work: processes one item.
        items: what to process.
        cluster: where to run.

    Raises:
        MissingExtra: Ray is not installed.
        UsageError: there is no such cluster.
        PanodetrError: a worker refused the model or an item, or none starts.
    """
    ray = import_extra("ray")
    running: dict[Any, tuple[Any, int | None]] = {}  # worker and item's number, by what is awaited
    waiting = deque(range(len(items)))
    deaths: Counter[int | None] = Counter()
    with _connected(ray, cluster.address):
        room, gpus = _room(ray.cluster_resources(), cluster)
        actor: Any = ray.remote(num_cpus=cluster.cpus, num_gpus=gpus, max_restarts=0)(_Worker)

        def hire() -> None:  # it starts when there is room
            worker = actor.remote(load, work, os.getcwd())
            running[worker.start.remote()] = worker, None

        for _ in range(min(room, len(items))):
            hire()
        while waiting or any(number is not None for _, number in running.values()):
            ready, _ = ray.wait(list(running), timeout=PATIENCE)
            if not ready and all(number is None for _, number in running.values()):
                raise PanodetrError(
                    f"no worker has started within {PATIENCE:g} s; expected a cluster with "
                    f"{cluster.cpus} CPUs and {gpus} GPUs to spare"
                )
            for done in ready:
                worker, number = running.pop(done)
                result = _result(ray, done)
                if isinstance(result, PanodetrError):
                    raise result
                if isinstance(result, Lost):
                    deaths[number] += 1
                    if number is None and deaths[None] > TRIES * room:
                        raise PanodetrError(f"workers die before they start: {result.reason}")
                    if number is not None and deaths[number] < TRIES:
                        waiting.appendleft(number)
                    elif number is not None:
                        yield number, result
                    if waiting:
                        hire()
                    continue
                if number is not None:
                    yield number, result
                if waiting:
                    number = waiting.popleft()
                    running[worker.do.remote(items[number])] = worker, number


def evaluate_shares(
    load: Callable[[], Predictor],
    truth: GroundTruth,
    tasks: Sequence[Task],
    cluster: Cluster,
    *,
    size: int,
    threshold: float | None,
    max_detections: int,
    progress: Callable[[int, int], None],
) -> Counts:
    """Measure on a Ray cluster exactly what `panodetr.evaluation.evaluate.evaluate` does.

    Workers measure shares of the images, and counts are merged; predictions are not kept.

    Args:
        load: what each worker calls for its model.
        truth: images and annotations, whose files the workers read.
        tasks: what to measure.
        cluster: where to run.
        size: images in a share.
        threshold: as in `evaluate`.
        max_detections: as in `evaluate`.
        progress: called after each share with how many are done, and how many there are.

    Raises:
        PanodetrError: as in `evaluate`, or workers died at a share.
    """
    from panodetr.evaluation.evaluate import evaluate

    images = truth.images
    shares = [replace(truth, images=images[at : at + size]) for at in range(0, len(images), size)]
    measure = partial(evaluate, tasks=tasks, threshold=threshold, max_detections=max_detections)
    found: dict[int, Counts] = {}
    for number, counted in run_ray(load, measure, shares, cluster):
        if isinstance(counted, Lost):
            raise PanodetrError(f"images from {shares[number].images[0].path}: {counted.reason}")
        found[number] = counted
        progress(len(found), len(shares))
    counts = deepcopy(found[0])  # Ray's arrays cannot be written
    for number in range(1, len(shares)):
        counts.merge(found[number])
    return counts


def _room(there: Mapping[str, float], cluster: Cluster) -> tuple[int, int]:
    """Give the number of workers, and the GPUs of each."""
    gpus = int(there.get("GPU", 0) > 0) if cluster.gpus is None else cluster.gpus
    room = int(there.get("CPU", 0) // cluster.cpus)
    if gpus:
        room = min(room, int(there.get("GPU", 0) // gpus))
    return max(1, room if cluster.workers is None else cluster.workers), gpus


def _result(ray: Any, done: Any) -> Any:
    """Give a result, or say why its worker is lost."""
    errors = ray.exceptions
    try:
        return ray.get(done)
    except (errors.RayActorError, errors.ObjectLostError, errors.OutOfMemoryError) as error:
        return Lost(f"{TRIES} workers died at it; the last error: {reason_of(error)}")


class _Worker(Generic[Item, Result]):
    """A process with a model: an actor of Ray."""

    def __init__(
        self,
        load: Callable[[], Predictor],
        work: Callable[[Predictor, Item], Result],
        folder: str,
    ) -> None:
        self._load, self._work = load, work
        with suppress(OSError):  # where all inputs are URLs, it need not be there
            os.chdir(folder)  # so that relative paths are those of the command

    def start(self) -> PanodetrError | None:
        try:
            self._model = self._load()
        except PanodetrError as error:
            return PanodetrError(str(error))  # not all others can be sent
        return None

    def do(self, item: Item) -> Result | PanodetrError:
        try:
            return self._work(self._model, item)
        except PanodetrError as error:
            return PanodetrError(str(error))


@contextmanager
def _connected(ray: Any, address: str | None) -> Generator[None]:
    """Be connected to a cluster within the block, unless the caller is already."""
    if ray.is_initialized():
        yield
        return
    own = address is None and "RAY_ADDRESS" not in os.environ
    sizes = {"object_store_memory": STORE, "include_dashboard": False} if own else {}
    if own:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with redirect_stdout(sys.stderr):  # where Ray says what has died
        try:
            ray.init(
                address="local" if own else address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **sizes,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = address or "the address in RAY_ADDRESS"
            raise UsageError(f"there is no Ray cluster at {where}: {reason_of(error)}") from error
        try:
            yield
        finally:
            ray.shutdown()
