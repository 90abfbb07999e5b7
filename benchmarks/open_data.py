"""Measures the CPU time that opening a large COCO instance JSON takes, and the most memory.

    python benchmarks/open_data.py [--images 118000] [--objects 1000000]

The data is made up: objects are polygons of twelve points. The images themselves are not read.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from panodetr.data.formats.coco import Layout
from panodetr.data.formats.coco_instances import InstanceData

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
        began = time.process_time()
        data = InstanceData.read(Layout(path, Path(folder), Path(folder)))
        seconds = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
        size = path.stat().st_size / 1e6
    print(f"{len(data.images)} images, {options.objects} objects, {size:.0f} MB")
    print(f"opened in {seconds:.1f} s of CPU time; peak memory {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
