"""A data set that is drawn, not stored, and a model small enough to be trained on it in a test."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from PIL import Image
from tests.objective.scene import ARCHITECTURE
from tests.process import start
from tests.shapes import detr_shape
from torch import Tensor

from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.data.augment import CropAugmentation
from panodetr.data.dataset import Dataset, open_data
from panodetr.evaluation.ground_truth import GroundTruth
from panodetr.images.preprocess import Preprocessing
from panodetr.model.detr import Detr
from panodetr.model.network import Network
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.log import Observer, Progress
from panodetr.training.loop import Trainer
from panodetr.training.start import make_state
from panodetr.training.state import TrainState
from panodetr.training.validate import Validation

SIDE = 64


@dataclass
class Recording(Observer):
    """Keeps what a run reports."""

    notes: list[str] = field(default_factory=list)
    lines: list[Progress] = field(default_factory=list)
    bad: list[Sequence[int]] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """Those after which the model was validated."""
        return [validation.step for validation in self.validations]

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, line: Progress) -> None:
        self.lines.append(line)

    def bad_step(self, step: int, image_ids: Sequence[int], figures: dict[str, float]) -> None:
        self.bad.append(image_ids)

    def validated(self, validation: Validation, model: Network) -> None:
        self.validations.append(validation)


def draw_discs(
    rng: np.random.Generator, height: int = SIDE
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A dark image with three bright discs apart, and its ids: background 1, discs 2 to 4."""
    rows, columns = np.mgrid[:height, :SIDE]
    ids = np.ones((height, SIDE), np.int32)
    corners = rng.permutation([(0, 0), (0, 1), (1, 0), (1, 1)])[:3]
    for number, corner in enumerate(corners, start=2):
        y, x = (corner + 0.5) * (height / 2, SIDE / 2) + rng.uniform(-5, 5, 2)
        ids[(rows - y) ** 2 + (columns - x) ** 2 < rng.uniform(6, 10) ** 2] = number
    light = np.where(ids > 1, 190, 40)[..., None] + rng.normal(0, 8, (height, SIDE, 3))
    return light.clip(0, 255).astype(np.uint8), ids


def write_discs(
    folder: Path, count: int, seed: int = 0, split: str = "train", height: int = SIDE
) -> Dataset:
    """Write images of discs as COCO panoptic data."""
    rng = np.random.default_rng(seed)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for part in (split, f"panoptic_{split}"):
        (folder / part).mkdir(parents=True)
    for number in range(1, count + 1):
        name = f"{number}.png"
        image, ids = draw_discs(rng, height)
        colors = np.stack([ids, np.zeros_like(ids), np.zeros_like(ids)], axis=-1)
        Image.fromarray(image).save(folder / split / name)
        Image.fromarray(colors.astype(np.uint8)).save(folder / f"panoptic_{split}" / name)
        segments = [
            {"id": i, "category_id": 10 if i > 1 else 20, "area": int((ids == i).sum())}
            for i in range(1, 5)
        ]
        images.append({"id": number, "file_name": name, "height": height, "width": SIDE})
        annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
    categories = [
        {"id": 10, "name": "disc", "isthing": 1, "color": [255, 0, 0]},
        {"id": 20, "name": "background", "isthing": 0, "color": [0, 0, 0]},
    ]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"panoptic_{split}.json").write_text(json.dumps(document))
    return open_data(folder, split)


def write_instances(data: Dataset, **more: object) -> Path:
    """Write an instance JSON beside panoptic data, of one disc an image; give the folder."""
    document = json.loads((data.folder / "panoptic_train.json").read_text())
    document["annotations"] = [
        {"id": number, "image_id": image["id"], "category_id": 10, "bbox": [0, 0, 60, 60],
         "area": 16, "iscrowd": 0, **more}
        for number, image in enumerate(document["images"], start=1)
    ]  # fmt: skip
    document["categories"] = [{"id": 10, "name": "disc"}]
    (data.folder / "instances_train.json").write_text(json.dumps(document))
    return data.folder


def save_start(folder: Path, spec: ModelSpec, **more: object) -> str:
    """Save a model with random weights; give the change that lets a run start from it."""
    spec = replace(spec, **more)  # pyright: ignore[reportArgumentType]
    save_checkpoint(folder, spec, Detr(spec.architecture).state_dict())
    return f"start={folder}"


@pytest.fixture
def discs(tmp_path: Path) -> Dataset:
    """Four images, each with three discs and a background."""
    return write_discs(tmp_path / "discs", 4)


@pytest.fixture
def accelerator() -> Accelerator:
    """This process alone, on the CPU, in full precision."""
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
    return Accelerator(cpu=True)


@dataclass(frozen=True)
class Runner:
    """Runs in folders of their own; one that is there is resumed."""

    data: Dataset
    accelerator: Accelerator
    place: Path

    def __call__(
        self,
        config: TrainConfig,
        name: str,
        told: Recording | None = None,
        *,
        truth: GroundTruth | bool = False,
    ) -> tuple[TrainState, Recording]:
        told = told or Recording()
        if isinstance(truth, bool):
            truth = GroundTruth.open(self.data.folder, "train") if truth else None  # pyright: ignore[reportAssignmentType]
        folder = RunFolder(self.place / name)
        state = make_state(config, self.accelerator.device, told.note, states=folder)
        Trainer(state, config, self.data, truth, folder, self.accelerator, told).train()  # pyright: ignore[reportArgumentType]
        return state, told

    def pointer(self, name: str) -> str:
        return RunFolder(self.place / name).pointer.read_text()


@pytest.fixture
def run(discs: Dataset, accelerator: Accelerator, tmp_path: Path) -> Runner:
    return Runner(discs, accelerator, tmp_path)


def weights(state: TrainState) -> dict[str, Tensor]:
    """Those that learn, and their average."""
    mean = state.kept_model.state_dict()
    found = state.learner.state_dict() | {f"mean.{name}": mean[name] for name in mean}
    return {name: tensor.clone() for name, tensor in found.items()}


def assert_identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


@pytest.fixture
def plain_run(tiny_run: TrainConfig) -> TrainConfig:
    """The same without what makes an image's losses depend on its batch or on luck."""
    shape = detr_shape(tiny_run.spec.architecture)
    shape = replace(shape, dropout=0.0, backbone=replace(shape.backbone, norm="group"))
    return replace(
        tiny_run,
        spec=replace(tiny_run.spec, architecture=shape),
        augmentation=CropAugmentation(size=64),
        batch_size=4,
        mask_start=0,
        mask_objects=1000,
    )


@pytest.fixture
def tiny_run(discs: Dataset) -> TrainConfig:
    """Six steps of everything that training has: groups, token supervision, masks, dropout."""
    architecture = replace(ARCHITECTURE, dropout=0.1)
    return TrainConfig(
        spec=ModelSpec(
            name="discs",
            architecture=architecture,
            categories=discs.categories,
            preprocessing=Preprocessing(short_side=None, long_side=None),
        ),
        augmentation=CropAugmentation(size=48, least_scale=0.8, most_scale=1.4, color=0.2),
        steps=6,
        batch_size=2,
        learning_rate=1e-3,
        backbone_learning_rate=5e-4,
        warmup=2,
        grid_queries=True,
        sampling="area",
        mask_start=1,
        mask_objects=4,
        token_weight=1.0,
        log_every=2,
        save_every=100,
    )


TINY_NUCLEI = (
    "steps=24", "batch_size=2", "save_every=2", "log_every=2", "validate_every=8", "warmup=2",
    "decay=4", "mask_start=4", "mask_objects=100", "ema=0.9", "augmentation.size=48",
    "learning_rate=0.001", "backbone_learning_rate=0.001", "spec.preprocessing.tile=64",
    "spec.preprocessing.tile_overlap=16", "spec.architecture.encoder_layers=1",
    "spec.architecture.decoder_layers=1", "spec.architecture.ffn_dim=64",
    "spec.architecture.dropout=0.1",
)  # fmt: skip
"""What makes the nuclei recipe a matter of seconds: two dozen steps, with everything it has."""


class Program:
    """The command line's `panodetr train`, in processes of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.settings = [word for change in TINY_NUCLEI for word in ("--set", change)]

    def begin(self, out: Path, *more: str) -> list[str]:
        """The words of a new run."""
        return ["nuclei", "--data", str(self.data), "--out", str(out), *self.settings, *more]

    def resume(self, out: Path, *more: str) -> list[str]:
        """The words to go on with one."""
        return ["--resume", "--out", str(out), *more]

    def start(
        self, words: list[str], *, launcher: Sequence[str] = (), largest_file: int | None = None
    ) -> subprocess.Popen[str]:
        """Start a process; on a POSIX system it can be kept from writing large files."""

        def limit() -> None:
            import resource

            assert largest_file is not None
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        return start(
            *(*launcher, "-m", "panodetr", "train", "--device", "cpu", *words),
            start_new_session=True,  # so that a kill reaches what it has started, too
            preexec_fn=None if largest_file is None else limit,
        )

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Wait for its end: exit code, stdout, stderr."""
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def run(self, words: list[str], *, launcher: Sequence[str] = ()) -> str:
        """Run to a good end, and give what it printed on stdout."""
        code, out, err = self.finish(self.start(words, launcher=launcher))
        assert code == 0, err
        return out


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """`panodetr train` on eight images of discs, and five to validate with.

    Two processes cannot share five evenly.
    """
    folder = tmp_path_factory.mktemp("program") / "discs"
    write_discs(folder, 8)
    write_discs(folder, 5, seed=1, split="val")
    return Program(folder)


@pytest.fixture(scope="session")
def straight(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("straight") / "run"
    program.run(program.begin(out))
    return out
