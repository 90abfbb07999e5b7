"""From a model of transformers to a `Predictor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.peers.pairs import their_config, their_model

import panodetr
from panodetr import compat
from panodetr.errors import UsageError

pytestmark = pytest.mark.parity

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def table_transformer() -> Any:
    torch.manual_seed(0)
    values = {k: v for k, v in their_config().to_dict().items() if k != "model_type"}
    config = transformers.TableTransformerConfig(**values)
    return transformers.TableTransformerForObjectDetection(config).eval()


def of_timm(kind: str, backbone: str, **options: Any) -> Any:
    pytest.importorskip("timm")
    library: Any = transformers
    config = library.TimmBackboneConfig(
        backbone=backbone, use_pretrained_backbone=False, out_indices=[1, 2, 3, 4], **options
    )
    model = their_model(kind, backbone_config=config)
    for name, scale in model.named_buffers():
        if name.endswith("weight"):  # of a norm
            scale.copy_(torch.rand_like(scale) + 0.5)
    return model


MODELS = {
    "timm": lambda: of_timm("DetrForObjectDetection", "resnet18"),
    "timm, masks": lambda: of_timm("DetrForSegmentation", "resnet50"),
    "timm, DC5": lambda: of_timm("DetrForObjectDetection", "resnet50", output_stride=16),
    "segmentation": their_model,
    "boxes": lambda: their_model("DetrForObjectDetection"),
    "an auxiliary loss": lambda: their_model(auxiliary_loss=True),
    "tables": table_transformer,
    "ours": lambda: compat.DetrForSegmentation(their_config()).eval(),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_model_in_memory_predicts_over_its_own_weights(make: Any) -> None:
    model = make()
    sizes = {"shortest_edge": 64, "longest_edge": 96}
    processor: Any = transformers.DetrImageProcessorPil(size=sizes)
    predictor: Any = panodetr.from_transformers(model, processor)
    shared = {weight.data_ptr() for weight in model.state_dict().values()}
    assert {w.data_ptr() for w in predictor.runtime.model.state_dict().values()} == shared
    outputs = model(**processor(IMAGE, return_tensors="pt"))
    prediction = predictor.runtime.detect(IMAGE[None], None)
    np.testing.assert_allclose(prediction.logits, outputs.logits.detach(), atol=1e-4)
    np.testing.assert_allclose(prediction.boxes, outputs.pred_boxes.detach(), atol=1e-4)
    if "pred_masks" in outputs:
        (masks,) = prediction.masks([np.arange(9)])
        np.testing.assert_allclose(masks.logits(), outputs.pred_masks[0].detach(), atol=1e-3)
        assert predictor.segment(IMAGE, threshold=0.0).segment_ids.shape == (64, 96)
    assert predictor.detect(IMAGE, threshold=0.0).detections
    with torch.no_grad():
        next(iter(model.parameters())).mul_(2)  # what it learns counts here, too
    assert not np.array_equal(predictor.runtime.detect(IMAGE[None], None).logits, prediction.logits)
    assert all(weight.requires_grad for n, weight in model.named_parameters() if "decoder" in n)


def test_a_predictor_finds_what_a_saved_model_does(tmp_path: Path) -> None:
    model = their_model()
    model.save_pretrained(tmp_path / "model")
    shared, loaded = panodetr.from_transformers(model), panodetr.load(tmp_path / "model")
    ours, theirs = (one.segment(IMAGE, threshold=0.1) for one in (shared, loaded))
    assert [s.category_id for s in ours.segments] == [s.category_id for s in theirs.segments]
    assert (ours.segment_ids == theirs.segment_ids).mean() > 0.99


def test_other_models_and_types_are_one_line() -> None:
    with pytest.raises(UsageError, match="the model is a Linear; expected one of DetrForSegm"):
        panodetr.from_transformers(torch.nn.Linear(1, 1))
    with pytest.raises(UsageError, match=r"torch\.float64; expected float32 or bfloat16"):
        panodetr.from_transformers(their_model().double())
