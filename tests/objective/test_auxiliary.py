from __future__ import annotations

from dataclasses import replace
from operator import itemgetter

import pytest
import torch
from tests.objective.scene import ARCHITECTURE, batch_of, make, totals_of
from torch.nn import functional as F
from torch.testing import assert_close

from panodetr.model.transformer import SinePositions
from panodetr.objective.auxiliary import TokenHeads, place_queries_on_grid
from panodetr.objective.config import CriterionConfig, ObjectiveConfig

RUN = ObjectiveConfig(mask_objects=100, token_weight=1.0)


@pytest.mark.parametrize("masks", [True, False])
def test_tokens_learn_the_object_at_their_centre(
    monkeypatch: pytest.MonkeyPatch, masks: bool
) -> None:
    """Heads that answer rightly lose nothing, and ones that answer for the next object do."""
    heads, batch = TokenHeads(ARCHITECTURE), batch_of(8)
    targets = batch.targets
    below = torch.zeros(1, 128, 64, dtype=torch.bool)
    below[:, 64:] = True
    assert targets.index_map is not None
    index_map = F.pad(targets.index_map, (0, 0, 0, 64)) if masks else None
    batch = replace(
        batch, pixels=F.pad(batch.pixels, (0, 0, 0, 64)), padding=below,
        targets=replace(targets, index_map=index_map),
    )  # fmt: skip
    totals = totals_of(targets.counts, RUN)
    # A token says its row's logits and box, and the heads hand them on.
    logits_of = itemgetter((slice(None), slice(3)))
    boxes_of = itemgetter((slice(None), slice(3, 7)))
    monkeypatch.setattr(heads.class_head, "forward", logits_of)
    monkeypatch.setattr(heads.box_head, "forward", boxes_of)
    rows = F.pad(targets.classes, (0, 8), value=2)  # no object in the padding
    logits = 50 * F.one_hot(rows, 3) - 25.0
    boxes = F.pad(targets.boxes, (0, 0, 0, 8))
    told = torch.cat((logits, boxes, torch.zeros(16, 121)), dim=1)  # 16 rows, D
    told = told.T[None, :, :, None].repeat(1, 1, 1, 8)
    right = heads.loss(told, batch, CriterionConfig(), totals)
    wrong = heads.loss(told.roll(1, 2), batch, CriterionConfig(), totals)
    assert right.item() == pytest.approx(0, abs=1e-4)
    assert wrong.item() > 10


def test_queries_start_as_positions_of_points_all_over_the_image() -> None:
    model, _ = make(RUN)
    place_queries_on_grid(model)
    table = SinePositions(128)(torch.zeros(1, 256, 256, dtype=torch.bool))[0].flatten(1).T
    points: list[list[int]] = []
    for query in model.queries.weight:
        distance, place = (table - query).abs().amax(1).min(0)
        assert distance < 1e-5
        points.append([int(place) // 256, int(place) % 256])
    own = torch.tensor(points).float()
    assert own.amin(0).max() < 100
    assert own.amax(0).min() > 156
    assert torch.pdist(own).min() > 40
    cross = model.decoder.layers[0].get_submodule("cross_attention")
    assert_close(
        cross.get_parameter("query.weight"), cross.get_parameter("key.weight"), rtol=0, atol=0
    )
