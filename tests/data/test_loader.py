from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panodetr.data import loader
from panodetr.data.augment import CropAugmentation, PaperAugmentation
from panodetr.data.dataset import Dataset, open_data
from panodetr.data.loader import BatchReader, Example, Sampling
from panodetr.errors import DataError

CROPS = CropAugmentation(size=12, least_scale=0.7, most_scale=1.5, color=0.2)
WHOLE = CropAugmentation(size=64, flip=False)


@pytest.fixture
def data(id_folder: Path) -> Dataset:
    """Three images of other sizes, with three objects each."""
    return open_data(id_folder)


def reader(
    data: Dataset, augmentation: CropAugmentation = CROPS, sampling: Sampling = "epochs",
    *, seed: int = 3, batch_size: int = 4, workers: int = 0,
) -> BatchReader:  # fmt: skip
    return BatchReader(
        data, augmentation, seed=seed, batch_size=batch_size, sampling=sampling, workers=workers
    )


def assert_alike(one: list[Example], other: list[Example]) -> None:
    assert [example.image_id for example in one] == [example.image_id for example in other]
    for (image, target, _), (its_image, its_target, _) in zip(one, other, strict=True):
        np.testing.assert_array_equal(image, its_image)
        np.testing.assert_array_equal(target.boxes, its_target.boxes)
        np.testing.assert_array_equal(target.segment_ids, its_target.segment_ids)
        np.testing.assert_array_equal(target.classes, its_target.classes)
        np.testing.assert_array_equal(target.ids, its_target.ids)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("sampling", ["area", "epochs", "buckets"])
def test_a_run_goes_on_from_its_step_alone(data: Dataset, sampling: Sampling) -> None:
    straight = list(reader(data, sampling=sampling).batches(0, 6))
    resumed = list(reader(data, sampling=sampling).batches(4, 6))
    assert [len(batch) for batch in straight] == [4] * 6
    for one, other in zip(resumed, straight[4:], strict=True):
        assert_alike(one, other)


@pytest.mark.parametrize("sampling", ["area", "epochs", "buckets"])
def test_ranks_share_the_batches_of_one_process(data: Dataset, sampling: Sampling) -> None:
    straight = list(reader(data, sampling=sampling).batches(0, 3))
    for ranks in (2, 3):
        shares = [
            list(reader(data, sampling=sampling).batches(0, 3, r, ranks)) for r in range(ranks)
        ]
        for step in range(3):
            joined: list[Example] = [None] * 4  # pyright: ignore[reportAssignmentType]
            for rank in range(ranks):
                joined[rank::ranks] = shares[rank][step]
            assert_alike(joined, straight[step])


def test_workers_read_what_a_thread_reads(data: Dataset) -> None:
    straight = list(reader(data).batches(1, 4))
    for one, other in zip(reader(data, workers=2).batches(1, 4), straight, strict=True):
        assert_alike(one, other)


def test_image_and_objects_belong_together(data: Dataset) -> None:
    sizes = {sample.image_id: sample.size for sample in data.samples}
    for batch in reader(data, WHOLE).batches(0, 3):
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
        batches = BatchReader(data, augmentation, seed=0, batch_size=3, sampling="buckets")
        for batch in batches.batches(0, 8):
            for image, target, _ in batch:
                assert target.ids is None
                found += len(target.classes)
                assert target.boxes.shape == (len(target.classes), 4)
                height, width = image.shape[:2]
                assert (target.boxes >= 0).all()
                assert (target.boxes <= [width, height, width, height]).all()
                assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()
    assert found > 10


def test_no_steps_are_no_batches_and_a_rank_needs_a_part(data: Dataset) -> None:
    assert list(reader(data).batches(5, 5)) == []
    with pytest.raises(ValueError, match="rank 4 of 5 has no part in batches of 4"):
        next(reader(data).batches(0, 1, 4, 5))


def test_small_data_is_read_once(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    one = reader(data)
    before = list(one.batches(0, 3))
    for sample in data.samples:
        sample.path.unlink()
    for batch, other in zip(one.batches(0, 3), before, strict=True):
        assert_alike(batch, other)
    monkeypatch.setattr(loader, "CACHED_PIXELS", 100)
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read.*png: no such file"):
        list(reader(data).batches(0, 1))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sampling", ["area", "epochs"])
def test_unreadable_images_are_told_once_and_replaced(
    data: Dataset, sampling: Sampling, workers: int
) -> None:
    image, id_map = data.samples[1].path, data.samples[0].path.parents[1] / "masks/cell/3.png"
    image.write_bytes(image.read_bytes()[:200])
    id_map.write_bytes(b"no picture")
    told: list[str] = []
    one = BatchReader(
        data, CROPS, seed=0, batch_size=4, sampling=sampling, workers=workers,
        bad_images=2, on_bad=told.append,
    )  # fmt: skip
    batches = list(one.batches(0, 4))
    assert {example.image_id for batch in batches for example in batch} == {1}
    assert len(told) == 2
    assert any("2.png: the image is broken" in message for message in told)
    assert any("3.png cannot be read as an id map" in message for message in told)
    again = BatchReader(data, CROPS, seed=0, batch_size=4, sampling=sampling, bad_images=2)
    assert_alike(next(again.batches(3, 4)), batches[3])  # the same ones stand in


@pytest.mark.parametrize("sampling", ["area", "epochs", "buckets"])
def test_images_with_broken_headers_are_told_and_counted(data: Dataset, sampling: Sampling) -> None:
    data.samples[1].path.write_bytes(b"\x89PNG")
    broken = open_data(data.folder)
    told: list[str] = []
    one = BatchReader(
        broken, CROPS, seed=0, batch_size=2, sampling=sampling, bad_images=1, on_bad=told.append
    )
    for _ in range(2):
        seen = {example.image_id for batch in one.batches(0, 8) for example in batch}
        assert seen == {1, 3}
        assert len(told) == 1
    assert "2.png: not an image" in told[0]
    none = BatchReader(broken, CROPS, seed=0, batch_size=2, sampling=sampling, bad_images=0)
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read.*allows more than 0"):
        next(none.batches(0, 1))
    data.samples[0].path.write_bytes(b"")
    broken = open_data(data.folder)
    with pytest.raises(DataError, match=r"2 of 3 images cannot be read"):
        next(
            BatchReader(
                broken, CROPS, seed=0, batch_size=2, sampling=sampling, bad_images=1
            ).batches(0, 1)
        )


def test_too_many_unreadable_images_end_the_run(data: Dataset) -> None:
    for sample in data.samples[:2]:
        sample.path.write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 3 images cannot be read.*allows more than 1"):
        list(
            BatchReader(data, CROPS, seed=0, batch_size=4, sampling="epochs", bad_images=1).batches(
                0, 2
            )
        )
    data.samples[2].path.write_bytes(b"")
    with pytest.raises(DataError, match="3 of 3 images cannot be read"):
        list(
            BatchReader(data, CROPS, seed=0, batch_size=4, sampling="area", bad_images=9).batches(
                0, 2
            )
        )


def test_a_closed_iterator_leaves_no_process(data: Dataset) -> None:
    with closing(reader(data, workers=1).batches(0, 50)) as batches:
        next(batches)
        assert children(os.getpid())
    assert not children(os.getpid())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_leave_when_training_is_killed(data: Dataset, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from panodetr.data.augment import CropAugmentation\n"
        "from panodetr.data.dataset import open_data\n"
        "from panodetr.data.loader import BatchReader\n"
        "if __name__ == '__main__':\n"
        f"    data = open_data(Path({str(data.folder)!r}))\n"
        "    reader = BatchReader(data, CropAugmentation(size=12), seed=0, batch_size=4,\n"
        "                         sampling='epochs', workers=2)\n"
        "    next(batches := reader.batches(0, 1000))\n"
        "    print('reading', flush=True)\n"
        "    time.sleep(60)\n"
    )
    run = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "reading\n"
    workers = children(run.pid)
    assert len(workers) >= 2
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
