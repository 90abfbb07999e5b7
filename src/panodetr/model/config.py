"""The shapes of networks. Those of the published models are in `checkpoints/published.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from msgspec import Meta, convert

from panodetr.validation import check_fields

NormKind = Literal["frozen", "batch", "group"]

# Upper bounds are far above every model that anybody trains: more is a mistake or an attack.
MOST_CLASSES = 100_000
_Width: TypeAlias = Annotated[int, Meta(ge=1, le=8_192)]
_Depth: TypeAlias = Annotated[int, Meta(ge=1, le=200)]
_Heads: TypeAlias = Annotated[int, Meta(ge=1, le=512)]
_FfnWidth: TypeAlias = Annotated[int, Meta(ge=1, le=65_536)]
_Stride: TypeAlias = Annotated[int, Meta(ge=1, le=16)]
_Stage: TypeAlias = Annotated[int, Meta(ge=0, le=3)]


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """A residual network, torchvision's v1.5 layout (the stride sits on the 3x3 convolution).

    Attributes:
        block: two 3x3 convolutions ("basic") or 1x1, 3x3, 1x1 with four times the width
            ("bottleneck").
        depths: blocks in each of the four stages.
        widths: channels of each stage's 3x3 convolutions.
        outputs: channels that each stage of bottlenecks gives out; None: four times its width.
        strides: stride of each stage's first block.
        inputs: channels of the images. Only `panodetr.compat` has use for others than three.
        stem_width: channels of the first convolution.
        stem_stride: stride of the first convolution (7x7, or 3x3 where it is 1).
        stem_pool: whether a 3x3 max pooling of stride 2 follows it.
        dilate_last: DC5: the last stage's stride becomes a dilation of its later blocks' 3x3
            convolutions.
        norm: "frozen" batch norm (constants, for pretrained weights), live "batch" norm, or "group"
            norm of 8 groups.
    """

    block: Literal["basic", "bottleneck"] = "bottleneck"
    depths: tuple[_Depth, _Depth, _Depth, _Depth] = (3, 4, 6, 3)
    widths: tuple[_Width, _Width, _Width, _Width] = (64, 128, 256, 512)
    outputs: tuple[_Width, _Width, _Width, _Width] | None = None
    strides: tuple[_Stride, _Stride, _Stride, _Stride] = (1, 2, 2, 2)
    inputs: Annotated[int, Meta(ge=1, le=1_000)] = 3
    stem_width: _Width = 64
    stem_stride: Literal[1, 2] = 2
    stem_pool: bool = True
    dilate_last: bool = False
    norm: NormKind = "frozen"

    def __post_init__(self) -> None:
        """Refuse what the paper's network has no meaning for.

        Raises:
            ValueError: a field is out of bounds, or DC5 is asked of basic blocks.
        """
        check_fields(self)
        if self.dilate_last and self.block == "basic":
            raise ValueError(
                "backbone.dilate_last (DC5) needs bottleneck blocks; basic blocks have no dilation"
            )
        if self.outputs is not None and self.block == "basic":
            raise ValueError("backbone.outputs is for bottleneck blocks; basic ones have widths")
        if self.norm == "group" and any(w % 8 for w in (*self.widths, self.stem_width)):
            raise ValueError(
                f"backbone.norm 'group' has 8 groups; widths {self.widths} must divide by 8"
            )

    @property
    def stride(self) -> int:
        """Pixels of the input, each way, that one place of the last map stands for."""
        whole = math.prod(self.strides) * self.stem_stride * (2 if self.stem_pool else 1)
        return whole // self.strides[-1] if self.dilate_last else whole

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels that each stage gives out."""
        expansion = 4 if self.block == "bottleneck" else 1
        return self.outputs or tuple(expansion * width for width in self.widths)


class Architecture:
    """The shape of a network of either kind, `DetrConfig` or `EomtConfig`, which are dataclasses.

    In JSON an `EomtConfig` has the key "kind"; a `DetrConfig`, which is older, has none.

    Attributes:
        num_classes: real classes; the class head has one logit more, "no object", last.
        num_queries: most objects an image can have.
        masks: whether there are masks.
    """

    num_classes: int
    num_queries: int
    masks: bool
    if TYPE_CHECKING:  # all are dataclasses, but this is none, so that msgspec asks `from_plain`
        __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def num_logits(self) -> int:
        """Logits that the class head gives a query: of the classes, and in most of "no object"."""
        return self.num_classes + 1

    @classmethod
    def from_plain(cls, given: dict[str, object]) -> Architecture:
        """Read a shape from JSON's values, as `panodetr.validation` asks for it.

        Raises:
            msgspec.ValidationError: there is no such shape.
        """
        return convert(given, EomtConfig if "kind" in given else DetrConfig)


@dataclass(frozen=True, kw_only=True)
class DetrConfig(Architecture):
    """A DETR, whole.

    Attributes:
        backbone: the convolutional network in front.
        num_classes: real classes; the class head has one logit more, "no object", last.
        num_queries: most objects an image can have.
        hidden_dim: width of the transformer, d in the paper.
        heads: attention heads.
        ffn_dim: width of the feed-forward layers.
        decoder_heads: attention heads of the decoder's layers, where it has other ones.
        decoder_ffn_dim: width of the decoder's feed-forward layers, where it is another.
        activation: between the two linear layers of each feed-forward sublayer.
        encoder_layers: number of encoder layers.
        decoder_layers: number of decoder layers.
        dropout: probability, in training only.
        pre_norm: normalise before each sublayer instead of after it (Table Transformer).
        positions: 2-D sine, or learned rows and columns (at most 50 of each).
        position_input: let positions and query embeddings enter at the first layers' input as well
            as at every attention (paper, table 3, "at input"). Features then know from the start
            where they lie, which a small model trained from scratch learns very slowly otherwise;
            published models are without.
        normed_states: let each decoder layer read the normed state of the one before, as
            transformers does where it learns with an auxiliary loss; published models are without.
        conditional: let each query look around a point of its own, which its boxes are offsets
            from, and compare what queries and tokens hold apart from where they lie (Conditional
            DETR, Meng et al., 2021). Learns several times sooner.
        sigmoid: let each class have a probability of its own, without "no object", as published
            Conditional DETRs do. For prediction only.
        masks: whether the panoptic mask head is there.
        mask_stages: the backbone's stages that it refines masks with, coarsest first, from 0.
    """

    backbone: ResNetConfig = field(default_factory=ResNetConfig)
    num_classes: Annotated[int, Meta(ge=1, le=MOST_CLASSES)]
    num_queries: Annotated[int, Meta(ge=1, le=10_000)] = 100
    hidden_dim: _Width = 256
    heads: _Heads = 8
    ffn_dim: _FfnWidth = 2048
    decoder_heads: _Heads | None = None
    decoder_ffn_dim: _FfnWidth | None = None
    activation: Literal["relu", "gelu", "gelu_new", "silu"] = "relu"
    encoder_layers: Annotated[int, Meta(ge=0, le=200)] = 6
    decoder_layers: _Depth = 6
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    pre_norm: bool = False
    positions: Literal["sine", "learned"] = "sine"
    position_input: bool = False
    normed_states: bool = False
    conditional: bool = False
    sigmoid: bool = False
    masks: bool = False
    mask_stages: tuple[_Stage, _Stage, _Stage] = (2, 1, 0)

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built.

        Raises:
            ValueError: a field is out of bounds, or the widths do not divide.
        """
        check_fields(self)
        decoder_heads = self.decoder_heads or self.heads
        if any(self.hidden_dim % part for part in (self.heads, decoder_heads, 4)):
            raise ValueError(
                f"hidden_dim is {self.hidden_dim}; it must divide by heads ({self.heads}), "
                f"decoder_heads ({decoder_heads}) and 4"
            )
        if self.masks and self.sigmoid:
            raise ValueError("masks and sigmoid are true; masks need a class head with 'no object'")
        if self.masks and self.activation != "relu":
            raise ValueError(
                f"activation is {self.activation!r} with a mask head, of which transformers 4 and "
                "5 make different masks; expected 'relu'"
            )
        if self.masks and any(n < 1 or n % min(8, n) for n in self.mask_widths):
            raise ValueError(
                f"hidden_dim is {self.hidden_dim} and heads {self.heads}; the mask head would have "
                f"{self.mask_widths} channels and normalises in 8 groups, so each must divide by 8 "
                "or be fewer"
            )

    @property
    def num_logits(self) -> int:
        """See `Architecture`."""
        return self.num_classes + (not self.sigmoid)

    @property
    def mask_widths(self) -> tuple[int, ...]:
        """Channels that each convolution of the mask head gives out."""
        return self.hidden_dim + self.heads, *(self.hidden_dim // n for n in (2, 4, 8, 16))


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """A vision transformer as DINOv2 has it, with registers.

    Attributes:
        hidden_dim: width of the tokens.
        heads: attention heads.
        layers: blocks.
        ffn_ratio: width of the feed-forward layers, in widths of the tokens.
        swiglu: whether these are gated (SwiGLU, two thirds as wide); otherwise they have a GELU.
        registers: tokens that stand for no patch, besides the class token.
        patch: side of a patch in pixels.
        grid: patches a side that positions were learned for; for others they are interpolated.
    """

    hidden_dim: _Width = 384
    heads: _Heads = 6
    layers: _Depth = 12
    ffn_ratio: Annotated[int, Meta(ge=1, le=16)] = 4
    swiglu: bool = False
    registers: Annotated[int, Meta(ge=0, le=100)] = 4
    patch: Annotated[int, Meta(ge=1, le=32)] = 16  # resampling takes the fourth power of it
    grid: Annotated[int, Meta(ge=1, le=256)] = 40

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built.

        Raises:
            ValueError: a field is out of bounds, or the width does not divide by the heads.
        """
        check_fields(self)
        if self.hidden_dim % self.heads:
            raise ValueError(
                f"backbone.hidden_dim is {self.hidden_dim}; it must divide by heads ({self.heads})"
            )

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward layers."""
        wide = self.hidden_dim * self.ffn_ratio
        return -(-(wide * 2 // 3) // 8) * 8 if self.swiglu else wide


@dataclass(frozen=True, kw_only=True)
class EomtConfig(Architecture):
    """An EoMT: a vision transformer whose last blocks also carry the queries.

    Attributes:
        kind: what tells it from other shapes in JSON.
        backbone: the vision transformer.
        num_classes: as in `Architecture`.
        num_queries: as in `Architecture`.
        query_blocks: blocks, the last ones, that queries go through beside the patches.
        upscales: how many times the patches' map is doubled for masks.
    """

    kind: Literal["eomt"] = "eomt"
    backbone: VitConfig = field(default_factory=VitConfig)
    num_classes: Annotated[int, Meta(ge=1, le=MOST_CLASSES)]
    num_queries: Annotated[int, Meta(ge=1, le=10_000)] = 200
    query_blocks: _Depth = 3
    upscales: Annotated[int, Meta(ge=0, le=6)] = 2

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built.

        Raises:
            ValueError: a field is out of bounds, or there are fewer blocks than carry queries.
        """
        check_fields(self)
        if self.query_blocks > self.backbone.layers:
            raise ValueError(
                f"query_blocks is {self.query_blocks}; expected at most backbone.layers "
                f"({self.backbone.layers})"
            )

    @property
    def masks(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Always: there is nothing else that says where an object is."""
        return True


VITS = {
    "small": VitConfig(),
    "base": VitConfig(hidden_dim=768, heads=12),
    "large": VitConfig(hidden_dim=1024, heads=16, layers=24),
    "giant": VitConfig(hidden_dim=1536, heads=24, layers=40, swiglu=True),
}
"""DINOv2's sizes, for images of 640 pixels a side."""


def usual_query_blocks(layers: int) -> int:
    """Blocks that carry queries in the paper's models of so many blocks."""
    return {12: 3, 24: 4, 40: 5}.get(layers, min(3, layers))


def eomt(size: Literal["small", "base", "large", "giant"], num_classes: int) -> EomtConfig:
    """EoMT of the paper: COCO panoptic PQ 46.7, 51.6, 56.0 and 57.0 at 640 pixels a side."""
    vit = VITS[size]
    blocks = usual_query_blocks(vit.layers)
    return EomtConfig(backbone=vit, num_classes=num_classes, query_blocks=blocks)


RESNET18 = ResNetConfig(block="basic", depths=(2, 2, 2, 2))
RESNET34 = ResNetConfig(block="basic", depths=(3, 4, 6, 3))
RESNET50 = ResNetConfig(depths=(3, 4, 6, 3))
RESNET101 = ResNetConfig(depths=(3, 4, 23, 3))

COCO_CLASSES = 91  # ids 1 to 90 with gaps, and 0: the class head is indexed by COCO's own ids
COCO_PANOPTIC_CLASSES = 250  # things keep their ids, stuff has ids up to 200


def detr_small(num_classes: int, num_queries: int = 50) -> DetrConfig:
    """A DETR of a few million parameters for small objects, trained from scratch.

    Features have stride 8, masks stride 2. Batch norm is live: random features that are frozen
    cannot learn.
    """
    backbone = ResNetConfig(
        block="basic", depths=(1, 2, 3, 2), widths=(24, 48, 96, 128), strides=(1, 2, 2, 1),
        stem_width=24, stem_pool=False, norm="batch",
    )  # fmt: skip
    return DetrConfig(
        backbone=backbone, num_classes=num_classes, num_queries=num_queries, hidden_dim=128,
        ffn_dim=512, encoder_layers=3, decoder_layers=3, dropout=0.0, position_input=True,
        masks=True,
    )  # fmt: skip
