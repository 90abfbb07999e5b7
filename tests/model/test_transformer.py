from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from panodetr.model.config import DetrConfig
from panodetr.model.transformer import (
    Attention,
    ConditionalAttention,
    Decoder,
    Encoder,
    EncoderLayer,
    LearnedPositions,
    SinePositions,
)

CONFIG = DetrConfig(
    num_classes=3, num_queries=4, hidden_dim=32, heads=4, ffn_dim=48, encoder_layers=2,
    decoder_layers=3,
)  # fmt: skip
QUERIES = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
PADDING = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])


@pytest.fixture(autouse=True)
def _seed() -> None:  # pyright: ignore[reportUnusedFunction]
    torch.manual_seed(0)


def tokens(count: int = 6, images: int = 2) -> Tensor:
    return torch.randn(images, count, CONFIG.hidden_dim)


def test_attention_is_torchs_own() -> None:
    """Written out here because in and out projections have other names there."""
    ours = Attention(32, 4, dropout=0.0)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    query, memory = tokens(3), tokens()
    expected, _ = theirs(query, memory, memory, key_padding_mask=PADDING)
    assert_close(ours(query, memory, memory, PADDING), expected)


def test_dropout_is_for_training_alone() -> None:
    attention, x = Attention(32, 4, dropout=0.5), tokens()
    assert not torch.equal(attention(x, x, x, None), attention(x, x, x, None))
    attention.eval()
    assert torch.equal(attention(x, x, x, None), attention(x, x, x, None))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_norms_come_before_or_after_the_sublayers(pre_norm: bool) -> None:
    config = replace(CONFIG, pre_norm=pre_norm)
    layer = EncoderLayer(config).eval()
    first, second = layer.attention_residual.norm, layer.ffn_residual.norm
    x, positions = tokens(), tokens()

    def read(x: Tensor) -> Tensor:
        return layer.attention(x + positions, x + positions, x, None)

    if pre_norm:
        expected = x + read(first(x))
        expected = expected + layer.ffn(second(expected))
        memory = Encoder(config).eval()(x, positions, None)
        assert_close(memory, F.layer_norm(memory, (32,)), atol=1e-4, rtol=0)
    else:
        expected = first(x + read(x))
        expected = second(expected + layer.ffn(expected))
    assert_close(layer(x, positions, None), expected)


def test_every_decoder_layer_is_given_out_and_the_next_reads_it_unnormalised() -> None:
    decoder = Decoder(CONFIG).eval()
    memory, positions = tokens(), tokens()
    states = decoder(QUERIES, memory, positions, None)
    assert states.shape == (3, 2, 4, 32)
    x = torch.zeros(2, 4, 32)
    for layer, state in zip(decoder.layers, states, strict=True):
        x = layer(x, QUERIES, positions, memory, None)
        assert_close(state, decoder.norm(x))


def test_positions_may_enter_at_the_input() -> None:
    config = replace(CONFIG, position_input=True)
    x, positions, queries = tokens(), tokens(), QUERIES
    plain, placed = Encoder(CONFIG).eval(), Encoder(config).eval()
    placed.load_state_dict(plain.state_dict())
    assert_close(placed(x, positions, None), plain(x + positions, positions, None))
    decoder = Decoder(replace(config, decoder_layers=1)).eval()
    first = decoder.layers[0](queries.expand(2, -1, -1), queries, positions, x, None)
    assert_close(decoder(queries, x, positions, None)[0], decoder.norm(first))


@pytest.mark.parametrize("first", [False, True])
def test_conditional_queries_compare_content_and_place_apart(first: bool) -> None:
    """Meng et al., 2021: of one head, the products of contents and of places are added."""
    attention = ConditionalAttention(32, 1, dropout=0.0, placed=first, near=True)
    query, place, memory, positions = torch.randn(4, 2, 5, 32)
    assert attention.query_near is not None
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    contents, keys = attention.query(query), attention.key(memory)
    if attention.query_place is not None:
        contents = contents + attention.query_place(QUERIES[:1])
        keys = keys + attention.key_place(positions)
    content = contents @ keys.mT
    near = attention.query_near(place) @ attention.key_place(positions).mT
    scores = ((content + near) / 64**0.5).masked_fill(padding[:, None], float("-inf"))
    expected = attention.out(scores.softmax(-1) @ attention.value(memory))
    found = attention(query, QUERIES[:1], place, memory, positions, padding)
    assert_close(found, expected)


def test_a_conditional_query_looks_where_its_point_is() -> None:
    """Its place has the waves of the token that ends there."""
    decoder = Decoder(replace(CONFIG, conditional=True)).eval()
    padding = torch.zeros(1, 4, 8, dtype=torch.bool)
    positions = SinePositions(32)(padding).flatten(2).mT  # 1, 32, 32
    seen: list[torch.Tensor] = []
    decoder.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[-1]))
    points = torch.tensor([[3 / 8, 1 / 4], [1, 1], [1 / 8, 1], [1, 1 / 2]])
    decoder(QUERIES, tokens(32, 1), positions, None, points=points)
    assert_close(seen[0], positions[0, [2, 31, 24, 15]], atol=1e-5, rtol=0)


def test_sine_positions_are_fractions_of_the_unpadded_image() -> None:
    encode = SinePositions(16)
    padding = torch.ones(1, 6, 8, dtype=torch.bool)
    padding[:, :3, :4] = False
    alone = encode(torch.zeros(1, 3, 4, dtype=torch.bool))
    assert_close(encode(padding)[:, :, :3, :4], alone)
    assert alone.shape == (1, 16, 3, 4)
    # The last row and column lie at 2 pi, where the lowest sine is 0 and the lowest cosine 1.
    assert_close(alone[0, [0, 1, 8, 9], -1, -1], torch.tensor([0.0, 1, 0, 1]), atol=1e-5, rtol=0)
    assert_close(alone[0, :8, :, 0], alone[0, :8, :, 3])  # rows do not depend on the column
    assert_close(alone[0, 8:, 0], alone[0, 8:, 2])


def test_learned_positions_are_columns_and_rows_up_to_50() -> None:
    encode = LearnedPositions(16)
    maps = encode(torch.zeros(2, 3, 50, dtype=torch.bool))
    assert maps.shape == (2, 16, 3, 50)
    expected = torch.cat((encode.columns.weight[4], encode.rows.weight[2]))
    assert_close(maps[1, :, 2, 4], expected)
    for size in ((51, 3), (3, 51)):
        with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} is larger than the 50 learned"):
            encode(torch.zeros(1, *size, dtype=torch.bool))
