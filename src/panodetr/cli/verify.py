"""`panodetr verify`: hold a published model to what was published of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from panodetr.cli.arguments import add_device
from panodetr.errors import CheckpointError, PanodetrError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from rich.table import Table

    from panodetr.checkpoints.published import Published, Seen
    from panodetr.cli.arguments import Commands
    from panodetr.evaluation.metrics import Figures
    from panodetr.predict import Predictor
    from panodetr.results.result import DetectionResult
    from panodetr.results.types import Detection

SPLIT = "val2017"
SCORE_TOLERANCE = 0.005
BOX_TOLERANCE = 1.0  # pixels: decoders of JPEG differ by a grey level
FIGURE_TOLERANCE = 0.2  # percent points: the published figures were measured in padded batches


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        what: is compared.
        expected: as published.
        found: here.
        good: whether they agree.
    """

    what: str
    expected: str
    found: str
    good: bool


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "verify",
        help="hold a published model to its published figures",
        description="Load a published DETR, check its digest and architecture, run it on the "
        "image of its model card, and compare with what was published.",
        epilog="The exit code is 1 where anything differs. What is not given is fetched.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="an id on the hub, such as facebook/detr-resnet-50, or an original file under its "
        "own name",
    )
    parser.add_argument(
        "--coco",
        type=Path,
        metavar="FOLDER",
        help=f"COCO: also measure AP and PQ on its split {SPLIT}",
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="COCO's image 000000039769")
    add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare, and print the table.

    Raises:
        UsageError: the model is no published one.
        PanodetrError: something cannot be fetched or read.
    """
    import panodetr
    from panodetr.checkpoints.published import DOCUMENTED
    from panodetr.cli.output import print_table

    published = _find(options.model)
    place = _place(options.model)
    model = panodetr.load(place, device=options.device)
    checks = [_digest(place, published), _architecture(model, published)]
    if published.hub_id.startswith("facebook/"):
        image = options.image or _image(options.coco)
        # The documentation's own threshold, and the original's for a demonstration.
        documented = DOCUMENTED.get(published.hub_id)
        result = model.detect(image, threshold=0.9 if documented else 0.7)
        checks += _seen(result, documented) if documented else _contents(result)
    if options.coco:
        checks += _measured(model, published, options.coco)
    print_table(_table(checks))
    wrong = [check.what for check in checks if not check.good]
    verdict = f"not as published: {', '.join(wrong)}" if wrong else "as published"
    print(f"{published.hub_id}: {verdict}")
    return 1 if wrong else 0


def _find(model: str) -> Published:
    from panodetr.checkpoints.published import PUBLISHED, find_published

    published = find_published(model) or find_published(Path(model).name)
    if published is None:
        known = ", ".join(model.hub_id for model in PUBLISHED)
        raise UsageError(
            f"{model!r} is no published DETR; known: {known}, and their original files"
        )
    return published


def _place(model: str) -> Path:
    """Find the file or the folder, fetching it where it is on the hub."""
    from panodetr.checkpoints.hub import fetch

    return Path(model) if Path(model).exists() else fetch(model)


def _digest(place: Path, published: Published) -> Check:
    """Compare a file's SHA-256 with the digits in its name, or with what the hub says of it."""
    from panodetr.checkpoints.hub import stated_digest
    from panodetr.checkpoints.spec import WEIGHTS_FILES

    if place.is_dir():
        file = next((place / n for n in WEIGHTS_FILES if (place / n).is_file()), None)
        if file is None:
            raise CheckpointError(f"{place} holds no weights")
        expected = stated_digest(file)
    else:
        file, expected = place, published.digest_prefix
    if expected is None:
        return Check("SHA-256", "not published", _sha256(file)[:8], good=True)
    found = _sha256(file)
    return Check("SHA-256", expected[:8], found[:8], good=found.startswith(expected))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _architecture(model: Predictor, published: Published) -> Check:
    same = model.spec.architecture == published.architecture and [
        (c.id, c.name) for c in model.categories
    ] == [(c.id, c.name) for c in published.categories]
    classes = f"{len(published.categories)} named classes"
    return Check("architecture", classes, classes if same else "another", good=same)


def _image(coco: Path | None) -> Path:
    """Find the image in COCO's folder, or fetch it."""
    from panodetr.checkpoints.published import TWO_CATS_URL

    if coco is not None and (local := coco / SPLIT / TWO_CATS_URL.rsplit("/", 1)[-1]).is_file():
        return local
    return _fetched(TWO_CATS_URL)


def _fetched(url: str) -> Path:
    """Fetch a file into the cache of the hub's client, where the weights lie too."""
    from urllib.request import urlopen

    from huggingface_hub.constants import HF_HOME

    from panodetr.files import write_bytes

    file = Path(HF_HOME) / "panodetr" / url.rsplit("/", 1)[-1]
    if not file.is_file():
        try:
            with urlopen(url, timeout=30) as answer:
                contents = answer.read()
        except OSError as error:
            raise PanodetrError(f"cannot fetch {url} ({error}); give it with --image") from error
        write_bytes(file, contents)
    return file


def _seen(result: DetectionResult, documented: tuple[Seen, ...]) -> Iterator[Check]:
    """Compare objects one by one: each documented one with the nearest of its label."""
    found = list(result.detections)
    yield Check("objects", str(len(documented)), str(len(found)), len(found) == len(documented))
    for seen in documented:
        same = [detection for detection in found if detection.label == seen.label]
        if not same:
            yield Check(seen.label, _shown(seen), "none", good=False)
            continue
        nearest = min(same, key=lambda detection: _apart(detection, seen))
        good = (
            abs(nearest.score - seen.score) <= SCORE_TOLERANCE
            and _apart(nearest, seen) <= BOX_TOLERANCE
        )
        yield Check(seen.label, _shown(seen), _shown(nearest), good)


def _apart(detection: Detection, seen: Seen) -> float:
    return max(abs(a - b) for a, b in zip(detection.box, seen.box, strict=True))


def _shown(found: Detection | Seen) -> str:
    return f"{found.score:.3f} at {' '.join(f'{edge:.1f}' for edge in found.box)}"


def _contents(result: DetectionResult) -> Iterator[Check]:
    """Compare what is on the image, where no numbers were published: all of it must be found."""
    from panodetr.checkpoints.published import TWO_CATS

    found = Counter(detection.label for detection in result.detections)
    for label, count in TWO_CATS.items():
        yield Check(label, f"{count} or more", str(found[label]), good=found[label] >= count)


def _measured(model: Predictor, published: Published, folder: Path) -> Iterator[Check]:
    """Measure on COCO what was published."""
    from panodetr.cli.output import ProgressBar
    from panodetr.evaluation.evaluate import evaluate
    from panodetr.evaluation.ground_truth import GroundTruth

    truth = GroundTruth.open(folder, SPLIT)
    tasks = ("panoptic", "boxes", "instances") if "pq" in published.figures else ("boxes",)
    with ProgressBar(len(truth.images)) as progress:

        def count(done: int, total: int) -> None:
            progress.begin(f"{done} of {total}")
            progress.end()

        evaluation = evaluate(model, truth, tasks, progress=count)
    found = _percent(evaluation.counts.compute())
    for name, expected in published.figures.items():
        good = abs(found[name] - expected) <= FIGURE_TOLERANCE
        yield Check(name, f"{expected:.1f}", f"{found[name]:.1f}", good)


def _percent(figures: Figures) -> dict[str, float]:
    """Name the figures as the catalogue does, in percent."""
    named: dict[str, float | None] = {}
    if figures.boxes is not None:
        named["ap"] = figures.boxes.ap
    if figures.instances is not None:
        named["segm_ap"] = figures.instances.ap
    if figures.panoptic is not None:
        means = {"": "all", "_things": "things", "_stuff": "stuff"}
        for suffix, part in means.items():
            mean = getattr(figures.panoptic, part)
            named |= {f"{name}{suffix}": getattr(mean, name) for name in ("pq", "sq", "rq")}
    return {name: 100 * value if value is not None else 0.0 for name, value in named.items()}


def _table(checks: list[Check]) -> Table:
    from rich.table import Table

    table = Table("what", "published", "here", "", box=None, pad_edge=False)
    for check in checks:
        table.add_row(check.what, check.expected, check.found, "good" if check.good else "DIFFERS")
    return table
