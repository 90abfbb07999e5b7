"""How good the model is on photos that it does not learn from, whole ones, as in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from panodetr.evaluation.metrics import metrics
from panodetr.evaluation.run import evaluate
from panodetr.model.detr import Detr
from panodetr.predict import Predictor
from panodetr.runtimes.torch import TorchRuntime
from panodetr.training.ranks import gather, share_buffers

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from accelerate import Accelerator

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.evaluation.tally import Figures
    from panodetr.evaluation.truth import Task, Truth


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What one validation found.

    Attributes:
        step: steps done.
        score: what the best model is picked by, 0 to 1.
        measure: what that is: "thing PQ", "PQ" where the data has no things, or "box AP".
        metrics: everything, as `panodetr.evaluation.metrics` lays it out.
    """

    step: int
    score: float
    measure: str
    metrics: dict[str, object]


def choose_task(spec: ModelSpec, truth: Truth) -> Task:
    """Say what is measured: panoptic quality where model and data know masks, else box AP."""
    if spec.architecture.masks and "panoptic" in truth.tasks():
        return "panoptic"
    return "boxes"


def validate(
    model: Detr,
    spec: ModelSpec,
    truth: Truth,
    *,
    step: int,
    accelerator: Accelerator,
    progress: Callable[[int, int], None],
) -> Validation:
    """Predict every photo of a data set once, shared out to all processes, and count together.

    Every process gets the same answer.

    Args:
        model: whose answers; all processes have the same weights.
        spec: what it says of itself.
        truth: what is measured against.
        step: steps done.
        accelerator: the processes.
        progress: called with this process's photos done and to do.

    Raises:
        DataError: the truth contradicts itself or the model's classes, or the model gives no
            numbers.
        ImageError: a photo cannot be read.
    """
    share_buffers(accelerator, model)
    share = truth.share(accelerator.process_index, accelerator.num_processes)
    predictor = make_predictor(model, spec, accelerator.device)
    mine = evaluate(predictor, share, [choose_task(spec, truth)], progress=progress)
    tally, *others = gather(accelerator, mine.tally)
    for other in others:
        tally.merge(other)
    figures = tally.compute()
    measure, score = _score(figures)
    return Validation(step=step, score=score, measure=measure, metrics=metrics(figures, truth))


def make_predictor(model: Detr, spec: ModelSpec, device: torch.device) -> Predictor:
    """Predict with a copy: a runtime takes its model over, and this one goes on learning."""
    taken = Detr(spec.architecture)
    taken.load_state_dict(model.state_dict())
    return Predictor(spec, TorchRuntime(taken, spec.preprocessing, device))


def _score(figures: Figures) -> tuple[str, float]:
    if figures.panoptic is not None:
        if figures.panoptic.things.classes:
            return "thing PQ", figures.panoptic.things.pq
        return "PQ", figures.panoptic.all.pq
    assert figures.boxes is not None
    return "box AP", figures.boxes.ap or 0.0
