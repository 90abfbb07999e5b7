"""What `finetune` learns of COCO from the bundled nuclei model: other classes, other queries.

    python benchmarks/finetune.py held-out --data ../shared/data/coco-instances
    python benchmarks/finetune.py by-heart --data ../shared/data/coco-instances

held-out: learns from four fifths of the photos; the loss on the others, before and after.
by-heart: learns four photos; their loss, and box AP on them, before and after.
Photos are seen whole, at a short side of 128 pixels. Losses are of the model as it predicts: no
dropout, no augmentation.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from panodetr.data.augment import PaperAugmentation
from panodetr.data.dataset import Dataset, open_data
from panodetr.evaluation.run import evaluate
from panodetr.evaluation.truth import Truth
from panodetr.model.detr import Detr
from panodetr.training.batch import read_steps
from panodetr.training.config import TrainConfig
from panodetr.training.folder import RunFolder
from panodetr.training.loop import begin, make_state, train
from panodetr.training.objective import compute_losses
from panodetr.training.observe import Progress, Silence
from panodetr.training.ranks import join_ranks
from panodetr.training.recipes import RecipeData, configure
from panodetr.training.scaffold import Scaffold
from panodetr.training.validate import make_predictor

CPU = torch.device("cpu")
SIDE = 128


class Lines(Silence):
    """Prints what training tells."""

    def progress(self, line: Progress) -> None:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in line.losses.items())
        print(f"step {line.step}  {losses}", flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("held-out", "by-heart"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--start", default="nuclei")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    options = parser.parse_args()

    data = open_data(options.data)
    by_heart = options.what == "by-heart"
    learned, shown = split(data, by_heart)
    changes = [f"start={options.start}", f"short_side={SIDE}", "log_every=20"]
    changes += ["spec.architecture.num_queries=40", "batch_size=4", "mask_objects=12"]
    # Four photos are the same every step: a higher rate does no harm.
    changes += ["epochs=400", "learning_rate=5e-4"] if by_heart else ["epochs=6"]
    config = configure(
        "finetune",
        RecipeData(categories=data.categories, photos=len(learned.samples), masks=data.has_masks),
        [*changes, *options.changes],
    )
    plain = PaperAugmentation(short_sides=(SIDE,), long_side=267, crop=0.0, flip=False)
    if by_heart:
        config = replace(config, augmentation=plain, backbone_learning_rate=config.learning_rate)

    before = make_state(config, CPU, print).learner.model
    lost = mean_loss(before, replace(config, augmentation=plain), shown)
    print(f"{config.steps} steps on {len(learned.samples)} photos; loss before: {lost:.3f}")
    since = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run, alone, lines = RunFolder(Path(folder)), join_ranks("cpu", config), Lines()
        state = begin(config, run, accelerator=alone, observer=lines, resume=False)
        train(state, config, learned, None, run, accelerator=alone, observer=lines)
    model = state.kept_model
    now = mean_loss(model, replace(config, augmentation=plain), shown)
    minutes = (time.perf_counter() - since) / 60
    print(f"loss after {minutes:.1f} minutes: {now:.3f}, {100 * (1 - now / lost):.0f} % less")
    if by_heart:
        print(f"box AP50 before {box_ap50(before, config, shown):.3f}", end=", ")
        print(f"after {box_ap50(model, config, shown):.3f}")


def split(data: Dataset, by_heart: bool) -> tuple[Dataset, Dataset]:
    """What is learned from, and what is measured."""
    if by_heart:
        four = replace(data, samples=data.samples[:4])
        return four, four
    held_out = replace(data, samples=data.samples[::5])
    rest = [sample for number, sample in enumerate(data.samples) if number % 5]
    return replace(data, samples=tuple(rest)), held_out


def mean_loss(model: Detr, config: TrainConfig, data: Dataset) -> float:
    """The total loss, a mean over batches; every photo is there once."""
    steps = -(-len(data.samples) // config.batch_size)
    # What training alone adds has no part in the loss.
    config = replace(
        config, steps=steps, accumulate=1, query_groups=1, denoising=0, token_weight=0.0,
        attention_weight=0.0,
    )  # fmt: skip
    model.eval()
    masks = config.spec.architecture.masks
    with torch.no_grad():
        losses = [
            compute_losses(model, Scaffold(config), batch, config, with_masks=masks)[0]
            for parts in read_steps(config, data, 0, print)
            for batch in parts
        ]
    return torch.stack(losses).mean().item()


def box_ap50(model: Detr, config: TrainConfig, data: Dataset) -> float:
    truth = Truth.open(data.folder, data.split)
    ids = {sample.image_id for sample in data.samples}
    truth = replace(truth, images=tuple(i for i in truth.images if i.image_id in ids))
    figures = evaluate(make_predictor(model, config.spec, CPU), truth, ["boxes"]).tally.compute()
    assert figures.boxes is not None
    return figures.boxes.ap50 or 0.0


if __name__ == "__main__":
    main()
