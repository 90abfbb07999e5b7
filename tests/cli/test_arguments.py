from __future__ import annotations

import argparse

import pytest
import torch

from panodetr.checkpoints.spec import ModelSpec
from panodetr.cli.arguments import add_tiles, tiled
from panodetr.errors import UsageError
from panodetr.model.detr import Detr
from panodetr.predict import Predictor
from panodetr.runtimes.torch import TorchRuntime

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_spec: ModelSpec) -> Predictor:
    return Predictor(
        tiny_spec,
        TorchRuntime(Detr(tiny_spec.architecture), tiny_spec.preprocessing, CPU),
    )


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_tiles(parser)
    return parser.parse_args(arguments)


def test_without_tiles_the_model_goes_by_its_own_rule(model: Predictor) -> None:
    assert tiled(model, options()) is model


@pytest.mark.parametrize(
    ("arguments", "tile", "overlap"),
    [
        (("--tiles", "100"), 100, 25),
        (("--tiles", "100", "--overlap", "0"), 100, 0),
        (("--tiles", "96", "--overlap", "0.5"), 96, 48),
    ],
)
def test_tiles_replace_the_model_s_own(
    model: Predictor, arguments: tuple[str, ...], tile: int, overlap: int
) -> None:
    changed = tiled(model, options(*arguments))
    rule = changed.spec.preprocessing
    assert (rule.tile, rule.tile_overlap) == (tile, overlap)
    assert rule.mean == model.spec.preprocessing.mean
    assert changed.runtime is model.runtime
    assert model.spec.preprocessing.tile == 64


def test_tiles_that_cannot_be_meant_are_refused(model: Predictor) -> None:
    with pytest.raises(UsageError, match="--overlap is for --tiles; give both"):
        tiled(model, options("--overlap", "0.5"))
    with pytest.raises(UsageError, match="tiles of 8 pixels that share 8 never get on"):
        tiled(model, options("--tiles", "8", "--overlap", "0.99"))
    with pytest.raises(argparse.ArgumentError, match="'0' is not a number of pixels, 1 or more"):
        options("--tiles", "0")
    with pytest.raises(argparse.ArgumentError, match=r"'1\.5' is not a number from 0 to 1"):
        options("--overlap", "1.5")
