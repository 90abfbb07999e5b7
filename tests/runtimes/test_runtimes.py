"""Every runtime gives what the model gives, whatever the sizes and the number of images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import panodetr
from panodetr.checkpoints.load import load_checkpoint
from panodetr.checkpoints.save import save_checkpoint
from panodetr.checkpoints.spec import ModelSpec
from panodetr.images.preprocess import normalize, pad
from panodetr.model.detr import Detr
from panodetr.runtimes import graphs
from panodetr.runtimes import torch as torch_runtime
from panodetr.runtimes.base import Prediction, Runtime
from panodetr.runtimes.torch import TorchRuntime, full_float32, normalize_images

CPU = torch.device("cpu")


def folded(folder: Path) -> Runtime:
    return panodetr.load(folder, device="cpu").runtime


def openvino(folder: Path) -> Runtime:
    return panodetr.load(folder, runtime="openvino").runtime


def on_gpu(folder: Path) -> Runtime:
    return panodetr.load(folder, device="cuda").runtime


def images(count: int, height: int, width: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(height * width)
    return random.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def plain(folder: Path) -> TorchRuntime:
    spec, model = load_checkpoint(folder)
    return TorchRuntime(model, spec.preprocessing, CPU, plain=True)


def boxes_of(found: Prediction) -> NDArray[np.float32]:
    assert found.boxes is not None
    return found.boxes


def masks_of(found: Prediction, *queries: list[int]) -> NDArray[np.float32]:
    """The masks of some queries of each image, one after the other."""
    masks = found.masks([np.array(own, np.intp) for own in queries])
    return np.concatenate([own.logits() for own in masks])


def assert_same(model: Runtime, other: Runtime) -> None:
    for count, height, width, edge in (
        (1, 64, 64, 64), (3, 64, 64, 32), (1, 97, 130, 97), (2, 160, 75, 80),
        # Padding begins at a row that is sampled: 2/5 of 140, however that is rounded.
        (3, 140, 171, 56),
    ):  # fmt: skip
        batch = images(count, height, width)
        padding = np.zeros((count, height, width), np.bool_)
        padding[-1, edge:] = True
        for mask in (None, padding):
            a, b = model.detect(batch, mask), other.detect(batch, mask)
            np.testing.assert_allclose(b.logits, a.logits, atol=1e-4)
            np.testing.assert_allclose(boxes_of(b), boxes_of(a), atol=1e-4)
            chosen: list[list[int]] = [[4, 0], [], [1, 2]][:count]
            expected = masks_of(a, *chosen)
            scale = max(1, np.abs(expected).max())
            np.testing.assert_allclose(masks_of(b, *chosen), expected, atol=1e-4 * scale)
            none: list[list[int]] = [[]] * count
            assert masks_of(b, *none).shape == (0, *expected.shape[1:])


@pytest.mark.parametrize("make", [folded, openvino, pytest.param(on_gpu, marks=pytest.mark.gpu)])
def test_answers_are_the_models(tiny_folder: Path, make: Callable[[Path], Runtime]) -> None:
    assert_same(plain(tiny_folder), make(tiny_folder))


def test_answers_of_onnx_are_the_models(tiny_folder: Path, tiny_onnx: Path) -> None:
    assert_same(plain(tiny_folder), panodetr.load(tiny_onnx).runtime)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_bfloat16_answers_are_near_the_models(tiny_folder: Path, device: str) -> None:
    rounded = panodetr.load(tiny_folder, device=device, precision="bfloat16").runtime
    a, b = (r.detect(images(2, 64, 80), None) for r in (plain(tiny_folder), rounded))
    assert 0 < np.abs(boxes_of(a) - boxes_of(b)).max() < 0.05
    difference = np.abs(masks_of(a, [1], [3]) - masks_of(b, [1], [3]))
    assert 0 < difference.mean() < 0.1


@pytest.mark.parametrize("make", [plain, folded, openvino])
def test_masks_a_few_at_a_time_are_those_of_all_at_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Runtime]
) -> None:
    found = make(tiny_folder).detect(images(2, 64, 80), None)
    chosen = [4, 2, 0], [1, 0, 3, 4]
    together = masks_of(found, *chosen)
    pixels = together[0].size
    scale = max(1, np.abs(together).max())
    for at_once in (1, 2, 3):
        monkeypatch.setattr(torch_runtime, "CACHED_PIXELS", at_once * pixels)
        monkeypatch.setattr(graphs, "CACHED_PIXELS", at_once * pixels)
        np.testing.assert_allclose(masks_of(found, *chosen), together, atol=1e-4 * scale)


@pytest.mark.parametrize("make", [folded, openvino])
def test_a_model_without_masks_finds_boxes(
    tiny_spec: ModelSpec, tmp_path: Path, make: Callable[[Path], Runtime]
) -> None:
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, masks=False))
    save_checkpoint(tmp_path / "boxes", spec, Detr(spec.architecture).state_dict())
    a, b = (
        runtime.detect(images(2, 70, 90), None)
        for runtime in (plain(tmp_path / "boxes"), make(tmp_path / "boxes"))
    )
    np.testing.assert_allclose(b.logits, a.logits, atol=1e-4)
    np.testing.assert_allclose(boxes_of(b), boxes_of(a), atol=1e-4)
    with pytest.raises(ValueError, match="no mask head"):
        masks_of(b, [0], [])


def test_pixels_are_normalised_where_the_model_runs_to_the_same_bits(tiny_spec: ModelSpec) -> None:
    rule = tiny_spec.preprocessing
    a, b = images(1, 20, 30)[0], images(1, 25, 24)[0]
    expected, padding = pad([normalize(image, rule.mean, rule.std) for image in (a, b)])
    canvas = np.full((2, 25, 30, 3), 255, np.uint8)  # whatever lies at the padding
    canvas[0, :20], canvas[1, :, :24] = a, b
    got = normalize_images(torch.from_numpy(canvas), torch.from_numpy(padding), rule)
    assert np.array_equal(got.numpy(), expected)


def test_float32_is_never_tf32_not_even_while_another_thread_ends(tiny_folder: Path) -> None:
    runtime = plain(tiny_folder)
    seen: list[bool] = []

    def note(*_: object) -> None:
        seen.append(full_float32.is_on())

    assert isinstance(runtime.model, Detr)
    assert runtime.model.mask_head is not None
    for part in (runtime.model.backbone, runtime.model.mask_head.out):
        part.register_forward_pre_hook(note)
    before = full_float32.values()
    assert before[0] in ("tf32", True)  # PyTorch's default, and the reason
    masks_of(runtime.detect(images(1, 64, 64), None), [1])
    assert seen == [True] * 2
    with ExitStack() as second:
        with full_float32:
            second.enter_context(full_float32)
        assert full_float32.is_on()
    assert full_float32.values() == before
