from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.distributed as dist

from panodetr.data.samples import InstanceImage
from panodetr.evaluation.average_precision import ObjectResult
from panodetr.evaluation.evaluate import evaluate
from panodetr.evaluation.ground_truth import TASKS, GroundTruth
from panodetr.evaluation.metrics import Counts, Figures, Prediction

from .conftest import Annotator, precision

if TYPE_CHECKING:
    from multiprocessing.queues import Queue


def same(one: Figures, other: Figures) -> None:
    """Equal to the last bit."""
    assert one.images == other.images
    assert one.panoptic == other.panoptic
    for a, b in ((one.boxes, other.boxes), (one.instances, other.instances)):
        assert a is not None
        assert b is not None
        assert a.per_class == b.per_class
        np.testing.assert_array_equal(precision(a), precision(b))


def test_parts_add_up_to_the_whole(nuclei: GroundTruth) -> None:
    model = Annotator(nuclei, shift=1)
    whole = evaluate(model, nuclei, TASKS).counts
    parts = [evaluate(model, nuclei.share(rank, 3), TASKS).counts for rank in (2, 0, 1)]
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(pickle.loads(pickle.dumps(part)))
    same(merged.compute(), whole.compute())


def test_every_image_is_in_one_share(nuclei: GroundTruth) -> None:
    shares = [nuclei.share(rank, 2) for rank in range(2)]
    ids = [image.image_id for share in shares for image in share.images]
    assert sorted(ids) == sorted(image.image_id for image in nuclei.images)
    with pytest.raises(ValueError, match="rank is 2 of 2; expected 0 to 1"):
        nuclei.share(2, 2)


def test_no_image_is_counted_twice(nuclei: GroundTruth) -> None:
    one, other = (evaluate(Annotator(nuclei), nuclei, ["boxes"]).counts for _ in range(2))
    with pytest.raises(ValueError, match="3 images were counted by both, first"):
        one.merge(other)
    with pytest.raises(ValueError, match="was counted before"):
        one.update(nuclei.images[0], Prediction(boxes=[]))
    assert one.compute().images == 3


def test_counts_of_other_tasks_are_not_merged(nuclei: GroundTruth) -> None:
    with pytest.raises(ValueError, match="counts of the same tasks"):
        Counts(nuclei, ["boxes"]).merge(Counts(nuclei, ["instances"]))
    with pytest.raises(ValueError, match="counts of the same tasks"):
        Counts(nuclei, ["panoptic", "boxes"]).merge(Counts(nuclei, ["boxes"]))


def _evaluate_share(rank: int, port: int, truth: GroundTruth, results: Queue[bytes]) -> None:
    """One of two processes, as a training run on two GPUs would have them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    counts = evaluate(Annotator(truth, shift=1), truth.share(rank, 2), TASKS).counts
    both: list[Counts | None] = [None, None]
    dist.all_gather_object(both, counts)
    first, second = both
    assert first is not None
    assert second is not None
    first.merge(second)
    if rank == 0:
        results.put(pickle.dumps(first))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(nuclei: GroundTruth) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    results: Queue[bytes] = spawn.Queue()
    workers = [
        spawn.Process(target=_evaluate_share, args=(rank, port, nuclei, results))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    merged: Counts = pickle.loads(results.get(timeout=300))
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    whole = evaluate(Annotator(nuclei, shift=1), nuclei, TASKS).counts
    same(merged.compute(), whole.compute())


@pytest.mark.slow
def test_memory_grows_by_less_than_20_kilobytes_an_image() -> None:
    """In a process of its own: this one has memory to spare from other tests."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("memory.py")), "600"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 20_000


def test_objects_of_the_instance_truth_are_taken_before_panoptic_ones(nuclei: GroundTruth) -> None:
    image = nuclei.images[0]
    none = InstanceImage(image_id=image.image_id, path=image.path, size=image.size, objects=())
    truth = replace(nuclei, images=(replace(image, instances=none),))
    counts = Counts(truth, ["boxes"])
    found: ObjectResult = {
        "image_id": image.image_id,
        "category_id": 1,
        "bbox": [0, 0, 9, 9],
        "score": 1,
    }
    counts.update(truth.images[0], Prediction(boxes=[found]))
    boxes = counts.compute().boxes
    assert boxes is not None
    assert boxes.per_class[0].truths == 0
