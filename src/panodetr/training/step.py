"""One step: its batches, forward and backward part by part, then one update of the weights."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from panodetr.boxes import xyxy_to_cxcywh
from panodetr.data.augment import Sampler
from panodetr.data.dataset import Dataset
from panodetr.data.loader import Asked, Example, ExampleReader, read_ahead
from panodetr.data.targets import number_pixels
from panodetr.errors import DataError, TrainingError
from panodetr.images.preprocess import Preprocessing, normalize, pad
from panodetr.objective.targets import Batch, Targets, Totals, count_totals
from panodetr.training.config import TrainConfig
from panodetr.training.state import TrainState

if TYPE_CHECKING:
    from accelerate import Accelerator

CACHED_PIXELS = 150_000_000
"""A data set of up to this many pixels is kept in memory, 7 bytes a pixel, by a reading thread."""


def read_steps(
    config: TrainConfig,
    data: Dataset,
    start: int = 0,
    *,
    rank: int = 0,
    ranks: int = 1,
    skipped: set[str] | None = None,
) -> Generator[list[Example]]:
    """Give this process's images of each step from `start` on, for `collate_step`.

    Images depend on the step's number alone, whatever came before it and whoever reads them. An
    image that cannot be read, or whose ground truth cannot, is replaced by the next one that can:
    the same one in every run. Close the generator to end its readers.

    Args:
        config: the run.
        data: the images.
        start: the first step, counted from 0.
        rank: which process this is.
        ranks: of how many.
        skipped: gets a line for every image that cannot be read; those in it count, too.

    Raises:
        DataError: more images cannot be read than the run allows, or none can; or a worker died.
    """
    sizes, size = [sample.size for sample in data.samples], config.batch_size
    sampler = Sampler(
        sizes, config.augmentation, seed=config.seed, batch_size=size, sampling=config.sampling
    )
    small = sum(height * width for height, width in sizes) <= CACHED_PIXELS
    reader = ExampleReader(
        augmentation=config.augmentation,
        index_of=data.index_of,
        things=tuple(category.is_thing for category in data.categories),
        with_masks=config.learns_from_masks and data.has_masks,
        rule=config.spec.preprocessing,
        cache={} if small and not config.workers else None,
    )
    bad = set[str]() if skipped is None else skipped

    def ask(number: int, attempt: int = 0) -> Asked:
        draw = sampler.draw(number, attempt)
        lender = draw.pasted and (data.samples[draw.pasted.index], draw.pasted.rng)
        return data.samples[draw.index], draw.rng, lender

    def skip(message: str) -> None:
        bad.add(message)
        check_bad_images(len(bad), data, config.bad_images, message)

    for message in data.unreadable:
        skip(message)
    steps, share = range(start, config.steps), range(rank, size, ranks)
    asked = (ask(step * size + place) for step in steps for place in share)
    with closing(read_ahead(reader, asked, len(share), config.workers)) as reading:
        for step in steps:
            examples: list[Example] = []
            for place in share:
                found, attempt = next(reading), 0
                while not isinstance(found, Example):
                    skip(str(found))
                    attempt += 1
                    found = reader[ask(step * size + place, attempt)]
                examples.append(found)
            yield examples


def check_bad_images(bad: int, data: Dataset, limit: int, last: str) -> None:
    """Raise a DataError if more images are bad than a run allows, or all; `last` names one."""
    images = len(data.samples) + len(data.unreadable)
    if bad > limit or bad == images:
        raise DataError(
            f"{bad} of {images} images cannot be read, the last: {last}; "
            f"`panodetr data check` lists them all, and bad_images allows more than {limit}"
        )


def collate_step(config: TrainConfig, data: Dataset, examples: Sequence[Example]) -> list[Batch]:
    """Make the batches of a step's parts from this process's images."""
    index_of = {category.id: category.index for category in config.spec.categories}
    classes = np.array([index_of[category.id] for category in data.categories])
    size = len(examples) // config.accumulate
    return [
        collate(examples[first : first + size], classes, config.spec.preprocessing)
        for first in range(0, len(examples), size)
    ]


def collate(examples: Sequence[Example], classes: NDArray[np.int64], rule: Preprocessing) -> Batch:
    """Normalise, pad and stack images (h, w, 3) and their targets.

    `classes` are the model's indexes of the data's categories.
    """
    pixels, padding = pad([normalize(e.image, rule.mean, rule.std) for e in examples], rule)
    index_map = np.zeros(padding.shape, dtype=np.int16)
    boxes: list[NDArray[np.float32]] = []
    for place, example in zip(index_map, examples, strict=True):
        height, width = example.image.shape[:2]
        if example.target.ids is not None:
            place[:height, :width] = number_pixels(example.target.segment_ids, example.target.ids)
        size = np.array([width, height, width, height], dtype=np.float32)
        boxes.append(example.target.boxes / size)
    with_masks = all(example.target.ids is not None for example in examples)
    found = classes[np.concatenate([example.target.classes for example in examples])]
    return Batch(
        pixels=torch.from_numpy(pixels),
        padding=torch.from_numpy(padding) if padding.any() else None,
        targets=Targets(
            classes=torch.from_numpy(found),
            boxes=xyxy_to_cxcywh(torch.from_numpy(np.concatenate(boxes))),
            counts=tuple(len(example.target.classes) for example in examples),
            index_map=torch.from_numpy(index_map) if with_masks else None,
        ),
        image_ids=tuple(example.image_id for example in examples),
    )


@contextmanager
def explain_oom(config: TrainConfig) -> Generator[None, None, None]:
    """Raise a TrainingError that names what makes a step smaller where memory does not suffice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        own = isinstance(error, MemoryError | torch.OutOfMemoryError)
        of_the_cpu = "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)
        if not own and not of_the_cpu:
            raise
        raise TrainingError(
            f"a step needs more memory than there is: {config.batch_size} images, in parts: "
            f"{config.accumulate}; give a higher accumulate, or checkpointing=true, which cost "
            "time alone, or a lower batch_size"
        ) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class StepResult:
    """What one step came to, in all processes alike.

    Attributes:
        losses: scalars to log; "total" is what is minimised.
        gradient_norm: of all gradients together, before it is clipped.
        finite: whether all of that is; if not, the weights were left as they are.
    """

    losses: dict[str, Tensor]
    gradient_norm: Tensor
    finite: bool


def train_step(
    network: nn.Module,
    state: TrainState,
    parts: Sequence[Batch],
    config: TrainConfig,
    accelerator: Accelerator,
) -> StepResult:
    """Do one step, in which the state's step is counted and its average brought up to date.

    Sums of losses are divided by what the whole step has of objects, so that gradients don't depend
    on how its images were shared out to parts and processes.

    Args:
        network: the state's learner, as Accelerate has prepared it.
        state: what learns.
        parts: this process's share of the images.
        config: the run.
        accelerator: the processes.
    """
    masks = config.spec.architecture.masks and state.step >= config.mask_start
    progress = state.step / config.steps
    totals = count_step(parts, config, accelerator)
    # What a forward pass changes in live batch norms, where numbers that aren't finite would stay.
    norms = [m for m in state.learner.model.modules() if isinstance(m, nn.BatchNorm2d)]
    statistics = [buffer for norm in norms for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in statistics]
    state.optimizer.zero_grad(set_to_none=True)
    shares: list[dict[str, Tensor]] = []
    for number, part in enumerate(parts, start=1):
        # Processes exchange their gradients once, in the backward pass of the last part.
        with accelerator.no_sync(network) if number < len(parts) else nullcontext():
            total, losses = network(
                part.to(accelerator.device), totals, with_masks=masks, progress=progress
            )
            accelerator.backward(total)
        shares.append(losses)
    learned = [p for group in state.optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(learned, config.clip)
    own = torch.stack([torch.stack([share[name] for share in shares]).sum() for name in shares[0]])
    whole = cast("Tensor", accelerator.reduce(own, "mean"))  # totals are per process
    losses = dict(zip(shares[0], whole.unbind(), strict=True))
    finite = bool(torch.stack([norm.float(), losses["total"].float()]).isfinite().all())
    state.step += 1
    if finite:
        state.optimizer.step()
        if state.average is not None:
            state.average.update_parameters(state.learner.model)
    else:
        for buffer, old in zip(statistics, before, strict=True):
            buffer.copy_(old)
    return StepResult(losses=losses, gradient_norm=norm, finite=finite)


def count_step(parts: Sequence[Batch], config: TrainConfig, accelerator: Accelerator) -> Totals:
    """What losses are divided by: the counts of all parts and processes.

    Divided by the number of processes, because Accelerate's data parallel takes the mean of their
    gradients, not the sum.
    """
    own = [count for part in parts for count in part.targets.counts]
    # Shares are of equal size, so that there is one count for every image of the step.
    whole = cast("Tensor", accelerator.gather(torch.tensor(own, device=accelerator.device)))
    spec, no_object = config.spec, config.criterion.no_object
    totals = count_totals(whole.tolist(), spec.architecture.num_queries, no_object)
    return Totals(**{name: n / accelerator.num_processes for name, n in vars(totals).items()})
