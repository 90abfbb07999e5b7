"""The settings of the objective: costs, weights of losses, and the auxiliary heads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from panodetr.validation import Positive, check_fields

Weight: TypeAlias = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class MatchCosts:
    """Weights of the three terms of a pair's cost (paper, appendix A.3)."""

    label: Weight = 1.0
    l1: Weight = 5.0
    giou: Weight = 2.0


@dataclass(frozen=True, kw_only=True)
class CriterionConfig:
    """Weights of the paper's costs and losses.

    Attributes:
        costs: of the matching.
        label: weight of the class loss.
        l1: weight of the box L1 loss.
        giou: weight of the box generalised-IoU loss.
        focal: weight of the masks' focal loss.
        dice: weight of the masks' Dice loss.
        no_object: weight of queries without an object within the class loss.
        mask_padding: whether padding counts in the mask losses, as it does in the original.
        mask: weight of the masks' cross-entropy at points. This and what follows is EoMT's, of
            which these weights are the costs of the matching, too.
        points: in each mask that a loss is computed at.
        oversample: how many times as many are drawn, to choose from.
        importance: part of the points that are chosen where a mask is least certain.
    """

    costs: MatchCosts = field(default_factory=MatchCosts)
    label: Weight = 1.0
    l1: Weight = 5.0
    giou: Weight = 2.0
    focal: Weight = 1.0
    dice: Weight = 1.0
    no_object: Weight = 0.1
    mask_padding: bool = False
    mask: Weight = 5.0
    points: Positive = 12_544
    oversample: Annotated[float, Meta(ge=1)] = 3.0
    importance: Annotated[float, Meta(ge=0, le=1)] = 0.75


EOMT_CRITERION = CriterionConfig(label=2.0, mask=5.0, dice=5.0)
"""EoMT's own."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What a run minimises. A run's whole configuration adds to this class.

    Attributes:
        criterion: weights of matching costs and losses.
        learned: "all", or "masks": the mask head alone (the paper's second stage).
        mask_objects: how many objects of a batch have a mask loss at most; they are drawn at
            random.
        grid_queries: whether queries start as positions of points on a grid. For training from
            random weights.
        token_weight: weight of the token loss; 0 for none.
        attention_weight: weight of the attention loss; 0 for none.
        masked_attention: of EoMT: whether queries first read only the patches of their masks, less
            and less often as the run goes on (`panodetr.objective.eomt.masked_share`), and each
            query block has losses of its own.
    """

    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    learned: Literal["all", "masks"] = "all"
    mask_objects: Positive = 64
    grid_queries: bool = False
    token_weight: Weight = 0.0
    attention_weight: Weight = 0.0
    masked_attention: bool = True

    def __post_init__(self) -> None:
        """Check each setting, and that they go together.

        Raises:
            ValueError: a field is out of bounds, or a mask-only run asks for another loss.
        """
        check_fields(self)
        if self.learned == "masks" and self.token_weight:
            raise ValueError(
                f"token_weight is {self.token_weight}; expected 0 where the mask head alone learns"
            )
