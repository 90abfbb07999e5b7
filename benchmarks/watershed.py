"""What people do without training: Otsu's threshold and a watershed, scored as any model.

    python benchmarks/watershed.py --data ../shared/data/nuclei

Nuclei are what lies beyond Otsu's threshold, on the side that covers less of the image. Touching
ones are parted where the distance to their edge has several peaks. Needs scikit-image
(panodetr[dev]).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.color import rgb2gray
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.segmentation import relabel_sequential, watershed

from harness.machine import describe_machine
from panodetr.data.dataset import open_data
from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.samples import Sample, read_sample
from panodetr.evaluation.panoptic_quality import PanopticQuality
from panodetr.files import write_json
from panodetr.results.panoptic import describe_segments

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
LEAST_AREA = 20  # pixels; smaller specks are no nuclei


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--distance", type=int, default=5, help="least pixels between two peaks")
    parser.add_argument("--images", type=int, help="at most so many")
    parser.add_argument("--out", type=Path, default=OUT, help="where watershed.json goes")
    options = parser.parse_args()

    data = open_data(options.data, options.split, format="coco-panoptic")
    nucleus = next(category for category in data.categories if category.is_thing)
    quality = PanopticQuality(data.categories)
    samples = [s for s in data.samples if isinstance(s, Sample)][: options.images]
    for sample in samples:
        found = find_nuclei(read_sample(sample), options.distance)
        count = int(found.max())
        segments = describe_segments(found, [nucleus] * count, [1.0] * count)
        quality.update(read_ids(sample), sample.segments, found, segments)
    things = quality.compute().things
    report = {
        "machine": describe_machine(),
        "split": options.split,
        "images": len(samples),
        "figures": {"pq": things.pq, "sq": things.sq, "rq": things.rq},
    }
    write_json(options.out / "watershed.json", report)
    print(
        f"{len(samples)} images of {options.split}: thing PQ {things.pq:.3f}, "
        f"SQ {things.sq:.3f}, F1 {things.rq:.3f}"
    )


def find_nuclei(image: NDArray[np.uint8], distance: int) -> NDArray[np.int32]:
    """Ids (H, W) of the nuclei in an image (H, W, 3), from 1 without gaps, 0 between them."""
    light = gaussian(rgb2gray(image), 1)
    inside = light > threshold_otsu(light)
    if inside.mean() > 0.5:  # stained tissue: dark on light
        inside = ~inside
    depth = gaussian(cast("NDArray[Any]", distance_transform_edt(inside)), 2)
    peaks = peak_local_max(depth, min_distance=distance, labels=inside.astype(int))
    markers = np.zeros(inside.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    ids = cast("NDArray[np.int32]", watershed(-depth, markers, mask=inside))
    small = np.bincount(ids.ravel(), minlength=len(peaks) + 1) < LEAST_AREA
    return relabel_sequential(np.where(small[ids], 0, ids))[0].astype(np.int32)


if __name__ == "__main__":
    main()
