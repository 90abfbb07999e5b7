"""What the original's own tests cover (`test_all.py` of facebookresearch/detr), in our words.

There modules are compiled by `torch.jit.script`, which PyTorch gave up; here they are exported with
`torch.export`, and traced. Boxes there and back are in `tests/test_boxes.py`, and the ONNX file in
`tests/export`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.peers.pairs import MODELS, QUERIES, padded_batch, their_config
from torch import Tensor, nn
from torch.testing import assert_close

from panodetr import compat
from panodetr.model.backbone import ResNet
from panodetr.model.config import RESNET18
from panodetr.model.detr import Detr
from panodetr.model.transformer import LearnedPositions, SinePositions
from panodetr.objective.config import MatchCosts
from panodetr.objective.criterion import match
from panodetr.objective.targets import Targets

pytestmark = pytest.mark.parity


def pairs_of(logits: Tensor, boxes: Tensor, *counts: int) -> list[list[tuple[int, int]]]:
    """Match images of the same predictions (Q, C + 1) and (Q, 4); each has the first objects."""
    random = torch.Generator().manual_seed(1)
    classes = torch.randint(91, (15,), generator=random)
    objects = torch.rand(15, 4, generator=random)
    targets = Targets(
        classes=torch.cat([classes[:count] for count in counts]),
        boxes=torch.cat([objects[:count] for count in counts]),
        counts=counts,
        index_map=None,
    )
    both = (part.expand(1, len(counts), *part.shape) for part in (logits, boxes))
    found = match(next(both), next(both), targets, MatchCosts())
    rows = zip(found.image.tolist(), found.query.tolist(), found.object.tolist(), strict=True)
    pairs: list[list[tuple[int, int]]] = [[] for _ in counts]
    for image, query, place in rows:
        pairs[image].append((query, place - sum(counts[:image])))
    return pairs


def test_an_image_is_matched_alone_as_in_a_batch_and_without_objects() -> None:
    random = torch.Generator().manual_seed(0)
    logits, boxes = torch.rand(100, 92, generator=random), torch.rand(100, 4, generator=random)
    (alone,) = pairs_of(logits, boxes, 15)
    assert sorted(place for _, place in alone) == list(range(15))
    assert pairs_of(logits, boxes, 15, 15) == [alone, alone]
    assert pairs_of(logits, boxes, 15, 0) == [alone, []]
    assert pairs_of(logits, boxes, 0, 0) == [[], []]


TRACING = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*deprecated:DeprecationWarning",
    "ignore::torch.jit.TracerWarning",
)
PADDING = torch.zeros(2, 7, 9, dtype=torch.bool)
PADDING[1, 5:] = PADDING[1, :, 4:] = True
PARTS: dict[str, tuple[nn.Module, Tensor]] = {
    "sine positions": (SinePositions(64), PADDING),
    "learned positions": (LearnedPositions(64), PADDING),
    "backbone": (ResNet(RESNET18), torch.rand(2, 3, 64, 96)),
}


@pytest.mark.parametrize(("part", "given"), PARTS.values(), ids=PARTS)
@TRACING
def test_a_part_is_exported_and_traced(part: nn.Module, given: Tensor) -> None:
    with torch.no_grad():
        expected = part(given)
        assert_close(torch.export.export(part, (given,)).module()(given), expected)
        traced: Any = torch.jit.trace(part, (given,))
        assert_close(traced(given), expected)
        if not isinstance(part, ResNet):
            assert_close(torch.jit.script(part)(given), expected)


class Wrapped(nn.Module):
    """A model with masks within another, which gives all that it finds."""

    def __init__(self, model: Detr) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, padding: Tensor) -> tuple[Tensor, ...]:
        found = self.model.detect(pixels, padding)
        image, query = torch.arange(2).repeat_interleave(QUERIES), torch.arange(QUERIES).repeat(2)
        return found.logits, found.boxes, self.model.masks(found, image, query)


def test_a_model_is_exported() -> None:
    model = compat.DetrForSegmentation(their_config()).eval()
    pixels, mask = padded_batch()
    given = pixels, mask == 0
    with torch.no_grad():
        found = model(pixels, mask)
        exported = torch.export.export(Wrapped(model.network), given).module()(*given)
        for key, value in zip(("logits", "pred_boxes", "pred_masks"), exported, strict=True):
            assert_close(value, found[key].view_as(value), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@TRACING
def test_a_whole_model_is_traced(name: str) -> None:
    """With a padded batch as its example, it takes other images of that size."""
    model = getattr(compat, name)(their_config(return_dict=False)).eval()
    pixels, mask = padded_batch()
    with torch.no_grad():
        traced: Any = torch.jit.trace(model, (pixels, mask))
        for given in ((pixels, mask), (pixels.flip(0), mask.flip(0))):
            found, expected = traced(*given), model(*given)
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                assert_close(one, other, rtol=1e-4, atol=1e-5)
