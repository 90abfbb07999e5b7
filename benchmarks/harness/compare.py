"""Whether two sides did the same work: a ratio of times says nothing without it.

Letters: Q queries, C classes, K kept queries, M masks, h and w a mask's size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from panodetr.results.decode import keep_queries, paired_box_iou, paired_mask_iou, softmax

if TYPE_CHECKING:
    from harness.process import Answer

TOLERANCE = 1e-4
"""Of boxes; of logits and masks the same part of the largest value where that is above 1."""

GREY_LEVEL = 1 / 255 / 0.224
"""A normalised image's least step in its finest channel: resizing may round either way."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two answers are the same.

    Attributes:
        same: the same work was done, within the tolerance where one is asked; None where two forms
            of one model are compared on data, where `Floors.agreement` decides.
        text: the figures in a few words.
        figures: by name.
    """

    same: bool | None
    text: str
    figures: dict[str, float] = field(default_factory=dict[str, float])


def threshold_keeping(logits: NDArray[np.float32], kept: int) -> float:
    """Find the threshold that keeps so many queries of logits (Q, C + 1), none of them "no object".

    It lies midway between the last that is kept and the next one, so that rounding changes nothing.
    """
    scores = np.sort(softmax(logits)[:, :-1].max(axis=1))[::-1]  # Q, falling
    if kept == 0:
        return 1.0
    return float(scores[kept - 1 : kept + 1].sum() / 2) if kept < len(scores) else 0.0


def network_answer(
    logits: NDArray[np.float32],
    boxes: NDArray[np.float32],
    kept: NDArray[np.intp],
    masks: NDArray[np.float32] | None = None,
    masked: NDArray[np.intp] | None = None,
) -> Answer:
    """Name what a network gave for one image.

    Args:
        logits: (Q, C + 1).
        boxes: (Q, 4) cxcywh.
        kept: (K,) queries above the threshold.
        masks: (M, h, w) logits.
        masked: (M,) the masks' queries; None: of those that are kept.
    """
    answer: Answer = {"logits": logits, "boxes": boxes, "kept": kept}
    if masks is not None:
        answer |= {"masks": masks, "masked": kept if masked is None else masked}
    return answer


def kept_of(logits: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    """Find the queries (K,) that can become segments."""
    return keep_queries(logits, threshold)[0]


def compare(ours: Answer, theirs: Answer, kept: int) -> Agreement:
    """Hold an answer to another, which has at least its masks.

    Args:
        ours: `pixels` of a prepared image, or what `network_answer` names.
        theirs: likewise.
        kept: how many queries both must keep, and the same ones.
    """
    if "pixels" in ours:
        apart = _apart(ours["pixels"], theirs["pixels"])
        same = apart <= GREY_LEVEL
        text = f"pixels {apart / GREY_LEVEL:.1g} grey levels"
        return Agreement(same=same, text=_told(text, same), figures={"pixels": apart})
    figures = {"boxes": _apart(ours["boxes"], theirs["boxes"])}
    figures["logits"] = _apart(ours["logits"], theirs["logits"], relative=True)
    if "masks" in ours:
        figures["masks"] = _apart(*_common_masks(ours, theirs), relative=True)
    same = all(value <= TOLERANCE for value in figures.values())
    counts = len(ours["kept"]), len(theirs["kept"])
    same = same and counts == (kept, kept) and np.array_equal(ours["kept"], theirs["kept"])
    found = f"{counts[0]} kept" if len(set(counts)) == 1 else f"{counts[0]} and {counts[1]} kept"
    text = ", ".join([found, *(f"{name} {value:.0e}" for name, value in figures.items())])
    figures["kept"] = counts[0]
    return Agreement(same=same, text=_told(text, same), figures=figures)


def compare_loosely(ours: Answer, theirs: Answer, kept: int) -> Agreement:
    """Say how near an answer of less precise arithmetic comes, query by query.

    Args:
        ours: with the masks of all queries, where it has masks: scores differ, and with them which
            queries are kept, and none that the other side keeps may be left out.
        theirs: the exact answer; what it keeps is compared.
        kept: how many queries both must keep, for the work to be the same.
    """
    expected = theirs["kept"]
    shared = np.intersect1d(ours["kept"], expected)
    counts = len(ours["kept"]), len(expected)
    figures = {"kept": float(counts[0]), "shared": float(len(shared))}
    figures |= query_agreement(ours, theirs, expected)
    same = counts == (kept, kept)
    found = f"{counts[0]} kept" if same else f"{counts[0]} and {counts[1]} kept"
    text = f"{found}, {len(shared)} of them the same"
    if len(expected):
        text += f"; their {len(expected)}: {describe(figures)}"
    return Agreement(same=same, text=_told(text, same), figures=figures)


def query_agreement(a: Answer, b: Answer, queries: NDArray[np.intp]) -> dict[str, float]:
    """Compare some queries (N,): same class, mean IoU of boxes, and of masks if both have them."""
    if not len(queries):
        return {}
    classes = [side["logits"][queries, :-1].argmax(axis=1) for side in (a, b)]
    found = {"classes": classes[0] == classes[1]}
    found["box_iou"] = paired_box_iou(*(side["boxes"][queries] for side in (a, b)))
    if "masks" in a and "masks" in b:
        found["mask_iou"] = paired_mask_iou(*(_masks_of(side, queries) for side in (a, b)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def describe(figures: dict[str, float]) -> str:
    """Put agreement of classes, boxes and masks in words."""
    parts = [f"classes {100 * figures['classes']:.1f} %", f"box IoU {figures['box_iou']:.3f}"]
    if "mask_iou" in figures:
        parts.append(f"mask IoU {figures['mask_iou']:.3f}")
    return ", ".join(parts)


def _told(text: str, same: bool) -> str:
    return text if same else f"DIFFERS: {text}"


def _apart(a: NDArray[Any], b: NDArray[Any], *, relative: bool = False) -> float:
    """Largest difference, as a part of the largest value where that is above 1 and it is asked."""
    if a.shape != b.shape:
        return float("inf")
    if not a.size:
        return 0.0
    scale = max(1.0, float(np.abs(b).max())) if relative else 1.0
    apart = float(np.abs(a - b).max()) / scale
    return apart if np.isfinite(apart) else float("inf")


def _common_masks(ours: Answer, theirs: Answer) -> tuple[NDArray[Any], NDArray[Any]]:
    """Find the masks that both have: the kept ones, where only one side computes the others."""
    common = np.intersect1d(ours["masked"], theirs["masked"])
    return _masks_of(ours, common), _masks_of(theirs, common)


def _masks_of(answer: Answer, queries: NDArray[np.intp]) -> NDArray[np.float32]:
    """Pick masks (N, h, w); `masked` rises, and has all of the queries."""
    assert np.isin(queries, answer["masked"]).all(), "a mask is asked for that was not made"
    return answer["masks"][np.searchsorted(answer["masked"], queries)]
