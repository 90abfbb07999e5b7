"""DETR: a set of objects straight from an image (paper, section 3 and figure 2).

The parts of figure 2: the backbone is in `backbone.py`, encoder and decoder are in
`transformer.py`, the prediction heads are here, and the mask head of figure 8 is in `mask_head.py`.

Letters: B images, H and W their size, Q queries, C classes, D channels, A attention heads, L
decoder layers, N masks, h and w height and width of the feature map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.model.backbone import ResNet
from panodetr.model.config import Architecture, DetrConfig
from panodetr.model.mask_head import AttentionMaps, MaskHead
from panodetr.model.network import Found, Network
from panodetr.model.transformer import Decoder, Encoder, LearnedPositions, SinePositions


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A batch after backbone and encoder.

    Attributes:
        features: four maps (B, channels, h, w) of the backbone, finest first.
        projected: (B, D, h, w), the last of them at the transformer's width.
        memory: (B, D, h, w), the encoder's output.
        positions: (B, D, h, w).
        padding: (B, h, w), True at padding; None where there is none.
    """

    features: tuple[Tensor, ...]
    projected: Tensor
    memory: Tensor
    positions: Tensor
    padding: Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections(Found):
    """Classes and boxes of a batch, and what masks are made from.

    Attributes:
        states: (B, Q, D), of the last decoder layer.
        encoded: the batch after the encoder.
    """

    boxes: Tensor  # pyright: ignore[reportGeneralTypeIssues]
    states: Tensor
    encoded: Encoded


class BoxHead(nn.Sequential):
    """Three linear layers with ReLU between them (section 3.2).

    The box is cxcywh in fractions of the unpadded image; of conditional queries its centre is an
    offset from the query's point.
    """

    def __init__(self, config: DetrConfig) -> None:
        dim = config.hidden_dim
        super().__init__(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4)
        )

    def forward(self, input: Tensor, points: Tensor | None = None) -> Tensor:
        """From states (..., D), and logits of points (..., 2), to boxes (..., 4) from 0 to 1."""
        boxes = super().forward(input)
        if points is not None:
            boxes = boxes + F.pad(points, (0, 2))
        return boxes.sigmoid()


class Detr(Network):
    """Backbone, transformer and heads.

    Inference calls `detect`, and then `masks` for the queries that it keeps. Training calls the
    steps in between: `encode`, `decode`, and the heads on every decoder layer's states.
    """

    SOURCES = ("states", "memory", "small_padding", "coarse", "fine", "finer", "finest")
    config: DetrConfig
    backbone: ResNet

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        assert isinstance(config, DetrConfig)
        self.config = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.backbone = ResNet(config.backbone)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.project = nn.Conv2d(config.backbone.stage_channels[-1], config.hidden_dim, 1)
        positions = SinePositions if config.positions == "sine" else LearnedPositions
        self.positions = positions(config.hidden_dim)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.queries = nn.Embedding(config.num_queries, config.hidden_dim)
        points = torch.rand(config.num_queries, 2).logit(1e-3) if config.conditional else None
        self.points = None if points is None else nn.Parameter(points)  # logits of x and y
        self.class_head = nn.Linear(config.hidden_dim, config.num_logits)
        self.box_head = BoxHead(config)
        self.attention_maps = AttentionMaps(config) if config.masks else None
        self.mask_head = MaskHead(config) if config.masks else None
        for part in (self.encoder, self.decoder):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def encode(
        self, pixels: Tensor, padding: Tensor | None = None, exact: torch.dtype = torch.float32
    ) -> Encoded:
        """Backbone and encoder.

        Args:
            pixels: (B, 3, H, W) float, normalised, zeros at padding.
            padding: (B, H, W), True at padding; None where there is none.
            exact: what positions are computed in, whatever weights are, as in the original.
        """
        return self.encode_features(self.backbone(pixels), padding, exact)

    def encode_features(
        self,
        features: tuple[Tensor, ...],
        padding: Tensor | None = None,
        exact: torch.dtype = torch.float32,
    ) -> Encoded:
        """The encoder on the backbone's maps; the other arguments are those of `encode`."""
        projected = self.project(features[-1])  # B, D, h, w
        shape = projected.shape[-2:]
        small = None if padding is None else shrink(padding, *shape)  # B, h, w
        nowhere = projected.new_zeros((projected.shape[0], *shape), dtype=torch.bool)  # B, h, w
        positions = self.positions(nowhere if small is None else small, exact).to(projected.dtype)
        hidden = None if small is None else small.flatten(1)  # B, hw
        memory = self.encoder(_tokens(projected), _tokens(positions), hidden)  # B, hw, D
        return Encoded(
            features=features,
            projected=projected,
            memory=memory.transpose(1, 2).unflatten(-1, shape),  # B, D, h, w
            positions=positions,
            padding=small,
        )

    def decode(
        self, encoded: Encoded, absent: Tensor | None = None, start: Tensor | None = None
    ) -> Tensor:
        """States (L, B, Q, D) of the queries after every decoder layer.

        Args:
            encoded: from `encode`.
            absent: (B, Q), True at queries that are left out; None leaves out none.
            start: (B, Q, D), what queries know at first; None as in the paper.
        """
        padding = None if encoded.padding is None else encoded.padding.flatten(1)  # B, hw
        memory, positions = _tokens(encoded.memory), _tokens(encoded.positions)
        points = None if self.points is None else self.points.sigmoid()  # Q, 2
        return self.decoder(
            self.queries.weight, memory, positions, padding, absent, start=start, points=points
        )

    def boxes(self, states: Tensor) -> Tensor:
        """Boxes (..., Q, 4) of the model's own queries, from states (..., Q, D)."""
        return self.box_head(states, self.points)

    def detect(self, pixels: Tensor, padding: Tensor | None = None) -> Detections:
        """Classes and boxes of every query; arguments as for `encode`."""
        return self.find(self.encode(pixels, padding))

    def find(self, encoded: Encoded) -> Detections:
        """Classes and boxes of every query, from what `encode` gives."""
        states = self.decode(encoded)[-1]  # B, Q, D
        logits, boxes = self.class_head(states), self.boxes(states)
        return Detections(logits=logits, boxes=boxes, states=states, encoded=encoded)

    def attend(self, encoded: Encoded, states: Tensor, image: Tensor, query: Tensor) -> Tensor:
        """Where chosen queries look (N, A, h, w): `AttentionMaps`. Arguments as for `masks`.

        Raises:
            ValueError: the model has no mask head.
        """
        if self.attention_maps is None:
            raise ValueError("this model has no mask head; build it with masks=True")
        return self.attention_maps(states, encoded.memory, encoded.padding, image, query)

    def share(self, encoded: Encoded) -> tuple[Tensor, ...]:
        """What the masks of an image have in common; see `MaskHead.share`."""
        assert self.mask_head is not None
        stages = self.config.mask_stages
        return self.mask_head.share(encoded.projected, tuple(encoded.features[s] for s in stages))

    def refine(self, shared: tuple[Tensor, ...], attention: Tensor, image: Tensor | None) -> Tensor:
        """Mask logits (N, h, w) from where queries look (N, A, h, w).

        `shared` is from `share`; `image` as for `MaskHead.forward`.
        """
        assert self.mask_head is not None
        return self.mask_head(shared, attention, image)

    def masks(self, found: Detections, image: Tensor, query: Tensor) -> Tensor:
        """Mask logits (N, h, w) of chosen queries, as fine as the backbone's first stage."""
        attention = self.attend(found.encoded, found.states, image, query)  # N, A, h, w
        return self.refine(self.share(found.encoded), attention, image)

    def sources(self, found: Detections) -> tuple[Tensor, ...]:
        """See `Network`; the batch must have been encoded with its padding."""
        encoded = found.encoded
        assert encoded.padding is not None
        return found.states, encoded.memory, encoded.padding, *self.share(encoded)

    def mask_part(self) -> nn.Module:
        """See `Network`."""
        return _MasksOfOne(self)

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        """See `Network`; the stem is in the first stage."""
        stages: list[list[nn.Module | nn.Parameter]] = [[each] for each in self.backbone.stages]
        stages[0] += [self.backbone.stem_conv, self.backbone.stem_norm]
        return stages

    def repeated(self) -> list[nn.Module]:
        """See `Network`."""
        blocks = [block for stage in self.backbone.stages for block in stage.children()]
        head = [] if self.mask_head is None else [self.mask_head]
        return [*blocks, *self.encoder.layers, *self.decoder.layers, *head]


class _MasksOfOne(nn.Module):
    """Masks of one image's queries: what they share need not be copied for each of them."""

    def __init__(self, model: Detr) -> None:
        super().__init__()
        assert model.attention_maps is not None
        assert model.mask_head is not None
        self.attention_maps, self.mask_head = model.attention_maps, model.mask_head

    def forward(
        self, states: Tensor, memory: Tensor, small_padding: Tensor, coarse: Tensor, fine: Tensor,
        finer: Tensor, finest: Tensor, query: Tensor,
    ) -> Tensor:  # fmt: skip
        """Mask logits (N, h, w) of the queries (N,) int64 from `Detr.sources` of one image."""
        image = torch.zeros_like(query)
        attention = self.attention_maps(states, memory, small_padding, image, query)
        return self.mask_head((coarse, fine, finer, finest), attention, None)


def shrink(padding: Tensor, height: int, width: int) -> Tensor:
    """Sample padding (B, H, W) by the nearest pixel up and left: (B, height, width).

    The places are those of `F.interpolate` at every size that a backbone's strides give, in whole
    numbers: other libraries compute its fractions in another order, and sample the row before.
    """
    rows, columns = (
        torch.arange(small, device=padding.device) * large // small
        for small, large in zip((height, width), padding.shape[1:], strict=True)
    )
    return padding.index_select(1, rows).index_select(2, columns)


def _tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)  # B, D, h, w -> B, hw, D
