from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panodetr.data.panoptic import PanopticData
from panodetr.errors import TrainingError
from panodetr.model.detr import Detr
from panodetr.training.config import TrainConfig
from panodetr.training.loop import Progress, make_state, read_batches, train, train_step

CPU = torch.device("cpu")


def run(
    config: TrainConfig, data: PanopticData, state: Path, *, resume: bool = False
) -> tuple[Detr, list[Progress]]:
    lines: list[Progress] = []
    model = train(config, data, state, device=CPU, resume=resume, report=lines.append)
    return model, lines


def assert_identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def test_a_run_that_was_stopped_goes_on_as_if_it_never_had(
    tiny_run: TrainConfig, discs: PanopticData, tmp_path: Path
) -> None:
    straight, _ = run(tiny_run, discs, tmp_path / "straight.pt")
    run(replace(tiny_run, steps=3), discs, tmp_path / "stopped.pt")
    torch.manual_seed(99)  # another process would not have the random numbers of this one
    resumed, lines = run(tiny_run, discs, tmp_path / "stopped.pt", resume=True)
    assert_identical(resumed.state_dict(), straight.state_dict())
    assert [line.step for line in lines] == [4, 6]


def test_seeds_decide_everything(
    tiny_run: TrainConfig, discs: PanopticData, tmp_path: Path
) -> None:
    short = replace(tiny_run, steps=2)
    first, _ = run(short, discs, tmp_path / "a.pt")
    same, _ = run(short, discs, tmp_path / "b.pt")
    other, _ = run(replace(short, seed=1), discs, tmp_path / "c.pt")
    assert_identical(first.state_dict(), same.state_dict())
    assert not torch.equal(first.queries.weight, other.queries.weight) or not torch.equal(
        first.project.weight, other.project.weight
    )


def test_the_log_has_means_of_every_loss_and_the_rate(
    tiny_run: TrainConfig, discs: PanopticData, tmp_path: Path
) -> None:
    model, lines = run(replace(tiny_run, mask_start=2, steps=5), discs, tmp_path / "state.pt")
    assert [line.step for line in lines] == [2, 4, 5]
    boxes = {"label", "l1", "giou", "tokens", "total"}
    assert lines[0].losses.keys() == boxes
    assert lines[1].losses.keys() == boxes | {"focal", "dice"}
    assert lines[0].learning_rate == pytest.approx(1e-3 * 2 / 3)
    assert lines[2].learning_rate == pytest.approx(1e-3)
    assert all(line.crops_per_second > 0 for line in lines)
    assert not model.training


def test_every_step_moves_every_part(tiny_run: TrainConfig, discs: PanopticData) -> None:
    config = replace(tiny_run, mask_start=0, mask_objects=100)
    state = make_state(config, CPU)
    parts = (state.model, state.scaffold)
    before = [p.detach().clone() for part in parts for p in part.parameters()]
    train_step(state, next(read_batches(config, discs, 0)), config)
    names = [name for part in parts for name, _ in part.named_parameters()]
    after = [p for part in parts for p in part.parameters()]
    still = {n for n, a, b in zip(names, before, after, strict=True) if torch.equal(a, b)}
    # Softmax takes no notice of what is added to all keys alike, and a query with no memory of the
    # image reads values that are all zero: these have no gradient, or none in the first step.
    assert not {
        n for n in still if not n.endswith(("key.bias", "key.weight", "query.weight", "query.bias"))
    }


def test_gradients_are_clipped(tiny_run: TrainConfig, discs: PanopticData) -> None:
    config = replace(tiny_run, clip=1e-3)
    state = make_state(config, CPU)
    train_step(state, next(read_batches(config, discs, 0)), config)
    for group in state.optimizer.param_groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        assert norm == pytest.approx(1e-3, rel=1e-2)


def test_batches_are_those_of_their_step(tiny_run: TrainConfig, discs: PanopticData) -> None:
    every = list(read_batches(tiny_run, discs, 0))
    assert len(every) == tiny_run.steps
    later = list(read_batches(tiny_run, discs, 4))
    assert [b.targets.counts for b in later] == [b.targets.counts for b in every[4:]]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(later, every[4:], strict=True))


def test_divergence_stops_the_run(
    tiny_run: TrainConfig, discs: PanopticData, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        run(replace(tiny_run, learning_rate=1e30, clip=1e30, warmup=0), discs, tmp_path / "s.pt")


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "absent", "list"])
def test_a_broken_state_is_one_line(
    tiny_run: TrainConfig, discs: PanopticData, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "state.pt"
    make_state(tiny_run, CPU).save(path)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "absent":
        path.unlink()
    elif damage == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"no state at all")
    with pytest.raises(TrainingError, match=r"cannot resume from .*state\.pt: ") as caught:
        run(tiny_run, discs, path, resume=True)
    assert "\n" not in str(caught.value)


def test_a_state_of_another_run_is_refused(
    tiny_run: TrainConfig, discs: PanopticData, tmp_path: Path
) -> None:
    path = tmp_path / "state.pt"
    make_state(replace(tiny_run, query_groups=3), CPU).save(path)
    with pytest.raises(TrainingError, match="resume with the run's own settings"):
        run(tiny_run, discs, path, resume=True)


def test_a_state_that_cannot_be_written_leaves_the_one_before(
    tiny_run: TrainConfig, tmp_path: Path
) -> None:
    path = tmp_path / "state.pt"
    state = make_state(tiny_run, CPU)
    state.save(path)
    before = path.read_bytes()
    state.model.state_dict = lambda: lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises((AttributeError, TypeError)):
        state.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*.pt*")) == [path]
