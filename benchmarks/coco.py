"""Check a published checkpoint against the figures of its card, on all of COCO val2017.

    python benchmarks/coco.py COCO                 # 1 GB of images and 1 GB of annotations
    python benchmarks/coco.py COCO --model facebook/detr-resnet-50-panoptic

Downloads what is not in the folder yet, checks it with `panodetr data check`, runs `panodetr eval`,
and exits with 1 where a figure is further from the card's than rounding and other software explain.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

from panodetr.checkpoints.published import PUBLISHED

URL = "http://images.cocodataset.org"
PARTS = {
    "val2017": f"{URL}/zips/val2017.zip",
    "annotations/instances_val2017.json": f"{URL}/annotations/annotations_trainval2017.zip",
    "annotations/panoptic_val2017.json": f"{URL}/annotations/panoptic_annotations_trainval2017.zip",
}
"""What each download brings."""

FIGURES = {
    "ap": ("boxes", lambda metrics: metrics["boxes"]["ap"]),
    "segm_ap": ("instances", lambda metrics: metrics["instances"]["ap"]),
    "pq": ("panoptic", lambda metrics: metrics["pq"]),
}
"""Of those that are published: the task, and where `metrics.json` has it."""

NEAR = 0.3
"""How far a figure may be from the card's, in percent."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    models = {m.hub_id: m.figures for m in PUBLISHED if m.data == "COCO val2017"}
    parser.add_argument("--model", choices=models, default="facebook/detr-resnet-101-panoptic")
    options = parser.parse_args()
    folder = options.folder
    card = {name: said for name, said in models[options.model].items() if name in FIGURES}
    download(folder)
    run("data", "check", folder, "--split", "val2017")
    out = folder / "eval" / options.model.rpartition("/")[2]
    tasks = ",".join(FIGURES[name][0] for name in card)
    run(
        "eval", "--model", options.model, "--data", folder, "--split", "val2017",
        "--task", tasks, "--out", out,
    )  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    found = {name: 100 * FIGURES[name][1](metrics) for name in card}
    print("| figure | here | card |\n|---|---|---|")
    for name, said in card.items():
        print(f"| {name} | {found[name]:.1f} | {said:.1f} |")
    return 0 if all(abs(found[name] - said) <= NEAR for name, said in card.items()) else 1


def download(folder: Path) -> None:
    """Bring what is missing; the id maps are an archive within the archive."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, url in PARTS.items():
        archive = folder / url.rpartition("/")[2]
        if (folder / part).exists():
            continue
        print(f"downloading {url}", flush=True)
        urllib.request.urlretrieve(url, archive)
        unpack(archive, folder)
    maps = folder / "annotations" / "panoptic_val2017"
    if not maps.exists():
        unpack(maps.with_suffix(".zip"), maps.parent)


def unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)


def run(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "panodetr", *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main())
