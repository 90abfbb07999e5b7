"""Measures the time that opening a large data set of COCO's takes, and the most memory.

    python benchmarks/open_data.py [--images 118000] [--objects 1000000]

The data is made up: objects are polygons of twelve points, and all images are links to one file.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from panodetr.data.dataset import open_data

CATEGORIES = 80


def write_document(path: Path, images: int, objects: int) -> None:
    """Write the JSON piece by piece, so that writing takes no memory that would be measured."""
    with path.open("w") as file:
        file.write('{"images": [')
        for number in range(images):
            comma = "," if number else ""
            file.write(
                f'{comma}{{"id": {number}, "file_name": "{number:012}.jpg", "height": 480, '
                '"width": 640}'
            )
        file.write('], "annotations": [')
        for number in range(objects):
            x, y = 10 + number % 500 + 0.25, 10 + number % 300 + 0.75
            points = ", ".join(f"{x + 7.31 * i:.2f}, {y + 3.17 * (i % 5):.2f}" for i in range(12))
            comma = "," if number else ""
            file.write(
                f'{comma}{{"id": {number}, "image_id": {number % images}, "category_id": '
                f'{number % CATEGORIES}, "bbox": [{x}, {y}, 80.41, 12.68], "area": 512.5, '
                f'"iscrowd": 0, "segmentation": [[{points}]]}}'
            )
        categories = ",".join(f'{{"id": {n}, "name": "class {n}"}}' for n in range(CATEGORIES))
        file.write(f'], "categories": [{categories}]}}')


def main() -> None:
    """Write, open, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--objects", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        write_document(path, options.images, options.objects)
        images = path.parent / "images"
        images.mkdir()
        Image.new("L", (640, 480)).save(path.parent / "one.png")
        one = path.parent / "one.png"
        for number in range(options.images):
            if number % 50_000 == 0:  # a file may have so many names
                one = path.parent / f"one{number}"
                one.write_bytes((path.parent / "one.png").read_bytes())
            os.link(one, images / f"{number:012}.jpg")
        began, busy = time.perf_counter(), time.process_time()
        data = open_data(path.parent)
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
        size = path.stat().st_size / 1e6
    print(f"{len(data.samples)} images, {options.objects} objects, {size:.0f} MB")
    print(f"opened in {seconds:.1f} s, {busy:.1f} s of CPU time; peak memory {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
