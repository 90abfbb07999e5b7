"""Against outputs of the original implementation in float64, which any CPU reproduces."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.parity.weights import ORIGINALS, GoldenModel, outputs_of

from harness.weights import build
from panodetr.checkpoints.names import FACEBOOK
from panodetr.model.config import (
    DetrConfig,
)


@pytest.mark.parity
@pytest.mark.parametrize(("name", "config"), ORIGINALS.items(), ids=ORIGINALS)
def test_tensors_and_outputs_are_the_originals(golden: Path, name: str, config: DetrConfig) -> None:
    original, model = GoldenModel(golden, name), build(config)
    found = FACEBOOK.from_ours(model.state_dict())
    assert {key: t.shape for key, t in found.items()} == {
        key: t.shape for key, t in original.state.items()
    }
    model.load_state_dict(FACEBOOK.to_ours(original.state, model.state_dict()), assign=True)
    original.check(outputs_of(model))
