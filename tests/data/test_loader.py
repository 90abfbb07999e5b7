from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.augment import Augmentation, CropAugmentation, PaperAugmentation, Sampling
from panodetr.data.dataset import Dataset, open_data
from panodetr.data.loader import Example
from panodetr.errors import DataError
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import detr_small
from panodetr.training import step
from panodetr.training.config import TrainConfig
from panodetr.training.step import read_steps

CROPS = CropAugmentation(size=12, least_scale=0.7, most_scale=1.5, color=0.2)
WHOLE = CropAugmentation(size=64, flip=False)
EVERY_SAMPLING = pytest.mark.parametrize("sampling", ["area", "epochs", "buckets"])


@pytest.fixture
def data(id_folder: Path) -> Dataset:
    """Three images of other sizes, with three objects each."""
    return open_data(id_folder)


def read(
    data: Dataset, first: int, last: int, *, augmentation: Augmentation = CROPS,
    sampling: Sampling = "epochs", rank: int = 0, ranks: int = 1, workers: int = 0,
    bad_images: int = 0, skipped: set[str] | None = None,
) -> Generator[list[Example], None, None]:  # fmt: skip
    config = TrainConfig(
        spec=ModelSpec(
            name="any",
            architecture=detr_small(len(data.categories)),
            categories=data.categories,
            preprocessing=Preprocessing(short_side=None, long_side=None),
        ),
        augmentation=augmentation, seed=3, batch_size=4, steps=last, sampling=sampling,
        workers=workers, bad_images=bad_images,
    )  # fmt: skip
    return read_steps(config, data, first, rank=rank, ranks=ranks, skipped=skipped)


def assert_alike(one: list[Example], other: list[Example]) -> None:
    assert [example.image_id for example in one] == [example.image_id for example in other]
    for (image, target, _), (its_image, its_target, _) in zip(one, other, strict=True):
        np.testing.assert_array_equal(image, its_image)
        for name in ("boxes", "segment_ids", "classes", "ids"):
            np.testing.assert_array_equal(getattr(target, name), getattr(its_target, name))


@EVERY_SAMPLING
@pytest.mark.parametrize("paste", [0.0, 0.7])
def test_a_batch_follows_from_its_step_and_ranks_share_it(
    data: Dataset, sampling: Sampling, paste: float
) -> None:
    augmentation = replace(CROPS, paste=paste)
    straight = list(read(data, 0, 6, augmentation=augmentation, sampling=sampling))
    assert [len(batch) for batch in straight] == [4] * 6
    again = read(data, 4, 6, augmentation=augmentation, sampling=sampling)
    for resumed, batch in zip(again, straight[4:], strict=True):
        assert_alike(resumed, batch)
    for ranks in (2, 3):
        for rank in range(ranks):
            shares = read(
                data, 0, 3, augmentation=augmentation, sampling=sampling, rank=rank, ranks=ranks
            )
            for share, batch in zip(shares, straight, strict=False):
                assert_alike(share, batch[rank::ranks])
    assert list(read(data, 5, 5)) == []


def test_workers_read_what_a_thread_reads_and_leave_torch_as_it_was(data: Dataset) -> None:
    pasting = replace(CROPS, paste=0.5)
    straight = list(read(data, 1, 4, augmentation=pasting))
    before = torch.get_rng_state(), signal.getsignal(signal.SIGTERM)
    children_end = signal.getsignal(signal.SIGCHLD) if sys.platform != "win32" else None
    with closing(read(data, 1, 40, augmentation=pasting, workers=2)) as batches:
        for batch in straight:
            assert_alike(next(batches), batch)
        workers = children(os.getpid())
        assert len(workers) == 2
        for number in (signal.SIGINT, signal.SIGTERM):  # a terminal and a scheduler send it to all
            os.kill(workers[0], number)
        next(batches)
    assert not children(os.getpid())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert signal.getsignal(signal.SIGTERM) is before[1]
    assert sys.platform == "win32" or signal.getsignal(signal.SIGCHLD) is children_end


def test_image_and_objects_belong_together(data: Dataset) -> None:
    sizes = {sample.image_id: sample.size for sample in data.samples}
    for batch in read(data, 0, 3, augmentation=WHOLE):
        for image, target, image_id in batch:
            truth = Image.open(data.samples[image_id - 1].path)
            np.testing.assert_array_equal(image, np.asarray(truth))
            assert target.ids is not None
            assert target.ids.shape == image.shape[:2] == sizes[image_id]
            assert target.segment_ids.tolist() == [3, 7, 300]


def test_boxes_without_masks_go_through_every_augmentation(boxes_folder: Path) -> None:
    data = open_data(boxes_folder)
    paper = PaperAugmentation(
        short_sides=(16, 24), long_side=40, crop_short_sides=(20,), least_crop=12, most_crop=18
    )
    found = 0
    for augmentation in (CROPS, paper):
        for batch in read(data, 0, 8, augmentation=augmentation, sampling="buckets"):
            for image, target, _ in batch:
                assert target.ids is None
                found += len(target.classes)
                assert target.boxes.shape == (len(target.classes), 4)
                height, width = image.shape[:2]
                assert (target.boxes >= 0).all()
                assert (target.boxes <= [width, height, width, height]).all()
                assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()
    assert found > 10


def test_small_data_is_read_once(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(read(data, 0, 6))
    again = read(data, 0, 6)
    assert_alike(next(again), before[0])  # more than an epoch
    for sample in data.samples:
        sample.path.unlink()
    for batch, other in zip(again, before[1:], strict=True):
        assert_alike(batch, other)
    monkeypatch.setattr(step, "CACHED_PIXELS", 100)
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read.*png: no such file"):
        next(read(data, 0, 1))


@pytest.mark.parametrize(("sampling", "workers"), [("area", 0), ("epochs", 0), ("epochs", 1)])
def test_unreadable_images_are_told_once_and_replaced(
    data: Dataset, sampling: Sampling, workers: int
) -> None:
    image, id_map = data.samples[1].path, data.samples[0].path.parents[1] / "masks/cell/3.png"
    image.write_bytes(image.read_bytes()[:200])
    id_map.write_bytes(b"no picture")
    told: set[str] = set()
    batches = list(read(data, 0, 4, sampling=sampling, workers=workers, bad_images=2, skipped=told))
    assert {example.image_id for batch in batches for example in batch} == {1}
    assert len(told) == 2
    assert any("2.png: the image is broken" in message for message in told)
    assert any("3.png cannot be read as an id map" in message for message in told)
    again = read(data, 3, 4, sampling=sampling, bad_images=2)
    assert_alike(next(again), batches[3])  # the same ones stand in


@EVERY_SAMPLING
def test_too_many_unreadable_images_end_the_run(data: Dataset, sampling: Sampling) -> None:
    data.samples[1].path.write_bytes(b"\x89PNG")
    broken = open_data(data.folder)  # its header is read, and it is left out
    told: set[str] = set()
    batches = read(broken, 0, 8, sampling=sampling, bad_images=1, skipped=told)
    assert {example.image_id for batch in batches for example in batch} == {1, 3}
    (line,) = told
    assert "2.png: not an image" in line
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read.*allows more than 0"):
        next(read(broken, 0, 1, sampling=sampling))
    with pytest.raises(DataError, match=r"2 of 3 images cannot be read.*allows more than 1"):
        next(read(broken, 0, 1, sampling=sampling, bad_images=1, skipped={"another"}))
    for sample in data.samples:
        sample.path.write_bytes(b"")
    for every in (data, replace(broken, samples=broken.samples[:1])):
        with pytest.raises(DataError, match=r"(\d) of \1 images cannot be read"):
            list(read(every, 0, 2, sampling=sampling, bad_images=9))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_worker_is_one_line(data: Dataset) -> None:
    with closing(read(data, 0, 1000, workers=1)) as batches:
        next(batches)
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"a data worker was killed .* fewer workers than 1"):
            list(batches)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_leave_when_training_is_killed(data: Dataset, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from panodetr.data.dataset import open_data\n"
        "from panodetr.training.recipes import RecipeData\n"
        "from panodetr.training.recipes import configure\n"
        "from panodetr.training.step import read_steps\n"
        "if __name__ == '__main__':\n"
        f"    data = open_data(Path({str(data.folder)!r}))\n"
        "    known = RecipeData(categories=data.categories, images=3, masks=True)\n"
        "    config = configure('nuclei', known, ['workers=2'])\n"
        "    next(examples := read_steps(config, data))\n"
        "    print('reading', flush=True)\n"
        "    time.sleep(60)\n"
    )
    run = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "reading\n"
    workers = children(run.pid)
    assert len(workers) == 2
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def children(pid: int) -> list[int]:
    """The processes that read images for a process."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            line = (folder / "cmdline").read_text()
        except (OSError, ValueError):  # it has gone meanwhile
            continue
        if parent == pid and "spawn_main" in line:
            found.append(int(folder.name))
    return found
