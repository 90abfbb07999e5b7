"""Losses, gradients and training through transformers' classes, beside transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tests.peers.pairs import CLASSES, MODELS, labels_of, padded_batch, pair, their_model
from torch import Tensor
from torch.nn.parallel.distributed import (
    _find_tensors,  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
)
from torch.testing import assert_close

from panodetr import compat
from panodetr.errors import DataError

pytestmark = pytest.mark.parity


@pytest.fixture(params=[(name, aux) for name in MODELS for aux in (False, True)], ids=str)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    name, auxiliary = request.param
    return pair(tmp_path, name, auxiliary_loss=auxiliary)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("counts", "soft"), [((3, 1), True), ((0, 2), False), ((0, 0), False), ((12, 9), False)]
)
def test_losses_and_gradients_are_theirs(
    both: tuple[Any, Any], training: bool, counts: tuple[int, int], soft: bool
) -> None:
    ours, theirs = (model.train(training) for model in both)
    pixels, mask = padded_batch()
    labels = labels_of(*counts)
    for one in labels if soft else ():  # masks between 0 and 1
        one["masks"] = one["masks"] * torch.linspace(0, 1, 96)
    found: Any = ours(pixels, mask, labels=labels)
    expected: Any = theirs(pixels, mask, labels=labels)
    assert_close(found.loss, expected.loss, rtol=0, atol=1e-5)
    assert list(found.loss_dict) == list(expected.loss_dict)
    for name, value in expected.loss_dict.items():
        assert_close(found.loss_dict[name], value, rtol=0, atol=1e-5, check_dtype=False)
    found.loss.backward()
    expected.loss.backward()
    own = dict(ours.named_parameters())
    for name, weight in theirs.named_parameters():
        assert own[name].requires_grad == weight.requires_grad
        assert (own[name].grad is None) == (weight.grad is None), name
        if weight.grad is not None:
            scale = max(1.0, float(weight.grad.abs().max()))
            assert_close(own[name].grad, weight.grad, rtol=0, atol=1e-4 * scale)
    assert (found.auxiliary_outputs is None) == (expected.auxiliary_outputs is None)
    earlier: list[Any] = found.auxiliary_outputs or []
    for one, other in zip(earlier, expected.auxiliary_outputs or earlier, strict=True):
        for name, value in other.items():
            assert_close(one[name], value, rtol=0, atol=1e-5)
    if "pred_masks" in expected:
        assert ("pred_masks" in found) is not training  # not yet
        assert_close(found.pred_masks, expected.pred_masks, rtol=0, atol=1e-4)
    assert list(found) == list(expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_models_backbone_stays_frozen_until_it_is_unfrozen(
    tmp_path: Path, name: str
) -> None:
    their_model(name).save_pretrained(tmp_path)
    pixels, mask = padded_batch()
    gradients: list[dict[str, torch.Tensor]] = []
    for library in (compat, transformers):
        model: Any = getattr(library, name).from_pretrained(tmp_path).train()
        weights = dict(model.named_parameters())
        backbone = [weight for key, weight in weights.items() if "backbone" in key]
        # transformers 5.23 unfreezes what it loads; its version 4 does not.
        assert any(weight.requires_grad for weight in backbone) == (library is transformers)
        getattr(model, "detr", model).model.unfreeze_backbone()
        model(pixels, mask, labels=labels_of(2, 1)).loss.backward()
        found = {key: weight.grad for key, weight in weights.items()}
        gradients.append({key: grad for key, grad in found.items() if grad is not None})
    assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_twenty_steps_are_theirs(tmp_path: Path, name: str) -> None:
    losses: list[list[float]] = []
    torch.set_default_dtype(torch.float64)  # of the weights of their classes' losses
    try:
        for model in pair(tmp_path, name, auxiliary_loss=True):
            model.double().train()
            learned = [weight for weight in model.parameters() if weight.requires_grad]
            optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=1e-4)
            pixels, mask = padded_batch(dtype=torch.float64)
            losses.append([])
            for step in range(20):
                labels = labels_of(3, 1 + step % 4, dtype=torch.float64)
                loss = model(pixels.roll(step, 3), mask, labels=labels).loss
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(learned, 0.1)
                optimizer.step()
                losses[-1].append(loss.item())
    finally:
        torch.set_default_dtype(torch.float32)
    assert losses[0] == pytest.approx(losses[1], rel=0, abs=1e-6)
    assert losses[0][-1] < 0.95 * losses[0][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.rand(2, 4)}, r"3 class_labels, 2 boxes, 3 masks"),
        ({"class_labels": torch.tensor([0, 1, CLASSES])}, "from 0 to 6.*expected 0 to 5"),
        ({"boxes": -torch.ones(3, 4)}, "negative size"),
        ({"masks": torch.rand(3, 64, 96) * 2}, "values outside 0 to 1"),
        ({"boxes": torch.full((3, 4), torch.nan)}, "not finite"),
    ],
)
def test_labels_that_cannot_be_meant_are_one_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    ours, _ = pair(tmp_path)
    labels = [labels_of(3)[0] | change]
    with pytest.raises(DataError, match=message):
        ours(torch.zeros(1, 3, 64, 96), labels=labels)
    with pytest.raises(DataError, match="1 labels were given for 2 images"):
        ours(torch.zeros(2, 3, 64, 96), labels=labels)
    del labels[0]["masks"]
    with pytest.raises(DataError, match="image 0 have no 'masks'"):
        ours(torch.zeros(1, 3, 64, 96), labels=labels)


def test_evaluation_keeps_nothing_for_a_backward_pass_that_may_come(tmp_path: Path) -> None:
    ours, theirs = pair(tmp_path)
    pixels, mask = padded_batch()
    kept: list[int] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    outputs: list[Any] = []
    for model in (ours, theirs):
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            outputs.append(model(pixels, mask))
        outputs[-1].pred_masks.square().mean().backward()
        kept.append(-1)
    assert sum(kept[: kept.index(-1)]) < 0.01 * sum(kept[kept.index(-1) + 1 :])
    own = dict(ours.named_parameters())
    for name, weight in theirs.named_parameters():
        if weight.grad is not None:
            scale = max(1.0, float(weight.grad.abs().max()))
            assert_close(own[name].grad, weight.grad, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_keeps_less_and_learns_the_same(tmp_path: Path, name: str) -> None:
    model, theirs = pair(tmp_path, name, dropout=0.1)
    pixels, mask = padded_batch()
    kept = [0, 0]
    gradients: list[dict[str, torch.Tensor]] = []
    assert model.supports_gradient_checkpointing == theirs.supports_gradient_checkpointing
    for place, switch in enumerate(
        (model.train, lambda: model.gradient_checkpointing_enable({"use_reentrant": True}))
    ):
        switch()

        def count(tensor: torch.Tensor, place: int = place) -> torch.Tensor:
            kept[place] += tensor.numel()
            return tensor

        torch.manual_seed(0)  # of dropout
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(pixels, mask, labels=labels_of(2, 1)).loss
        loss.backward()
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        gradients.append(found)
        model.zero_grad()
    assert kept[1] < 0.5 * kept[0]
    assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    assert model.is_gradient_checkpointing
    outputs = model(pixels, mask, labels=labels_of(2, 1), output_attentions=True)
    outputs.loss.backward()
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def examples(name: str) -> list[dict[str, Any]]:
    """What a notebook makes of images with COCO's annotations: squares, and a keypoint of one."""
    processor = compat.DetrImageProcessor(size={"height": 64, "width": 96})
    found: list[dict[str, Any]] = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 60, (64, 96, 3), dtype=np.uint8)
        annotations: list[dict[str, Any]] = []
        for index, side in enumerate((24, 16)[: 1 + number % 2]):
            left = 10 + 40 * index
            pixels[10 : 10 + side, left : left + side, index] = 255
            ring = [left, 10, left + side, 10, left + side, 10 + side, left, 10 + side]
            annotations.append(
                {
                    "image_id": number,
                    "category_id": index,
                    "bbox": [left, 10, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    "segmentation": [ring],
                    "keypoints": [left, 10, 2],
                }
            )
        given = {"image_id": number, "annotations": annotations}
        inputs = processor(
            pixels,
            given,
            return_segmentation_masks=name == "DetrForSegmentation",
            return_tensors="pt",
        )
        assert "keypoints" in inputs["labels"][0]
        found.append({key: value[0] for key, value in inputs.items()})
    return found


def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
    """The notebooks' collate function."""
    stacked = {
        key: torch.stack([one[key] for one in batch]) for key in ("pixel_values", "pixel_mask")
    }
    return stacked | {"labels": [one["labels"] for one in batch]}


@pytest.mark.parametrize("name", MODELS)
def test_a_plain_loop_learns_right_after_loading(tmp_path: Path, name: str) -> None:
    their_model(name).save_pretrained(tmp_path)
    model = getattr(compat, name).from_pretrained(
        tmp_path, num_labels=2, ignore_mismatched_sizes=True
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    groups = [
        {"params": [p for n, p in model.named_parameters() if "backbone" not in n]},
        {"params": [p for n, p in model.named_parameters() if "backbone" in n], "lr": 1e-5},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    batch, losses = collate(examples(name)), []
    for step in range(25):
        if step == 1:
            model.train()  # the first step is in evaluation mode, as `from_pretrained` leaves it
        outputs = model(**batch)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(outputs.loss.item())
    assert losses[-1] < 0.75 * losses[0]  # by the draw of new weights 0.4 to 0.65, theirs likewise
    frozen = {key for key, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen
    for key, value in model.state_dict().items():
        learns = key not in frozen and "backbone" not in key
        assert torch.equal(value, before[key]) is not learns, key


def arguments(folder: Path, **options: Any) -> Any:
    """Options of transformers' Trainer for a short run on a CPU."""
    usual = {"remove_unused_columns": False, "use_cpu": True, "report_to": "none"}
    library: Any = transformers
    return library.TrainingArguments(output_dir=str(folder), disable_tqdm=True, **usual, **options)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_trainer_of_transformers_fine_tunes(tmp_path: Path, name: str) -> None:
    library: Any = transformers
    their_model(name).save_pretrained(tmp_path / "start")
    model = getattr(compat, name).from_pretrained(
        tmp_path / "start", num_labels=2, ignore_mismatched_sizes=True
    )
    seen: list[int] = []

    def measure(evaluated: Any) -> dict[str, float]:
        right = 0
        for predictions, labels in zip(evaluated.predictions, evaluated.label_ids, strict=True):
            logits, boxes = predictions[1], predictions[2]
            assert logits.shape[:2] == boxes.shape[:2]
            seen.append(len(labels))
            right += int((logits[..., :-1].max(-1) > logits[..., -1]).sum())
        return {"found": float(right)}

    trainer = library.Trainer(
        model=model,
        args=arguments(
            tmp_path / "run",
            max_steps=16,
            learning_rate=3e-3,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=2,
            eval_strategy="steps",
            eval_steps=8,
            save_steps=8,
            logging_steps=1,
            load_best_model_at_end=True,
            eval_do_concat_batches=False,
        ),
        data_collator=collate,
        train_dataset=examples(name),
        eval_dataset=examples(name),
        compute_metrics=measure,
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    assert seen == [2, 2] * 2
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, abs=1e-4)
    trainer.save_model(str(tmp_path / "weights"))
    model.save_pretrained(tmp_path / "end")
    weights = load_file(tmp_path / "weights" / "model.safetensors")
    again = getattr(library, name).from_pretrained(tmp_path / "end")
    for key, value in again.state_dict().items():
        assert_close(value, weights[key], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_checkpoint_of_the_trainer_resumes_and_opens_with_a_configuration(tmp_path: Path) -> None:
    library: Any = transformers
    their_model(MODELS[0], dropout=0.1).save_pretrained(tmp_path / "start")
    options = arguments(
        tmp_path / "run",
        max_steps=4,
        save_steps=2,
        learning_rate=1e-3,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        bf16=True,
    )
    ends: list[dict[str, Tensor]] = []
    for resume in (None, str(tmp_path / "run" / "checkpoint-2")):
        model = compat.DetrForObjectDetection.from_pretrained(tmp_path / "start")
        data = examples(MODELS[0])
        trainer = library.Trainer(
            model=model, args=options, data_collator=collate, train_dataset=data
        )
        trainer.train(resume_from_checkpoint=resume)
        ends.append(model.state_dict())
    assert_close(ends[0], ends[1], rtol=0, atol=0)
    folder = tmp_path / "run" / "checkpoint-4"
    with pytest.raises(OSError, match=r"Trainer leaves it, model\.config\.save_pretrained"):
        compat.DetrForObjectDetection.from_pretrained(folder)
    trainer.model.config.save_pretrained(folder)
    for kind in (compat.DetrForObjectDetection, library.DetrForObjectDetection):
        assert_close(dict(kind.from_pretrained(folder).state_dict()), ends[0], rtol=0, atol=0)


def test_mixed_precision_computes_masks_of_matched_queries_alone(tmp_path: Path) -> None:
    AcceleratorState._reset_state(True)  # pyright: ignore[reportPrivateUsage]: another test's
    ours, _ = pair(tmp_path)
    ours.train()
    pixels, mask = padded_batch()
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare(ours)
    outputs = prepared(pixels, mask, labels=labels_of(2, 1))
    assert outputs.logits.dtype == outputs.loss.dtype == torch.float32
    assert "pred_masks" not in outputs
    # DistributedDataParallel, which asks for parameters without gradients where Trainer uses it.
    assert len(list(_find_tensors(outputs))) == len(outputs) - 1 + len(outputs.loss_dict)
    assert "pred_masks" not in outputs
    outputs.loss.backward()
    assert outputs.pred_masks.shape == (2, 9, 8, 12)
    assert "pred_masks" in outputs
