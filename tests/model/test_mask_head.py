from __future__ import annotations

import pytest
import torch
from torch import nn

from panodetr.model.mask_head import Norm, copy_for_queries, refine


def test_copies_for_queries_are_the_maps_of_their_images() -> None:
    maps, image = torch.randn(2, 3, 4, 5), torch.tensor([1, 0, 1, 1])
    assert torch.equal(copy_for_queries(maps, image), maps[image])
    assert copy_for_queries(maps[:1], None).shape == (1, 3, 4, 5)


@pytest.mark.parametrize("sizes", [((4, 6), (8, 12)), ((4, 6), (7, 12)), ((1, 1), (2, 2))])
@pytest.mark.parametrize("channels_last", [False, True])
def test_refining_while_learning_never_enlarges_and_gives_the_same(
    sizes: tuple[tuple[int, int], tuple[int, int]], channels_last: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 5, 3, padding=1)
    image = torch.tensor([0, 1, 0])
    results: list[list[torch.Tensor]] = []
    x, fine = torch.randn(3, 6, *sizes[0]), torch.randn(2, 6, *sizes[1])
    for learning in (False, True):
        given = [tensor.clone().requires_grad_() for tensor in (x, fine)]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        small, shared = (tensor.contiguous(memory_format=layout) for tensor in given)
        refined = refine(conv.train(learning), small, shared, image)
        learned = [*given, *conv.parameters()]
        gradients = torch.autograd.grad((refined * refined.detach().cos()).sum(), learned)
        results.append([refined, *gradients])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=2e-5)


def test_a_single_value_is_normalised_alone_as_beside_others() -> None:
    norm, values = Norm(8, 8).eval(), torch.randn(2, 8, 1, 1)
    assert torch.equal(norm(values[:1]), norm(values)[:1])
    wide = torch.randn(2, 8, 3, 4)
    assert torch.equal(norm(wide), nn.GroupNorm(8, 8)(wide))
