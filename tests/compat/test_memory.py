"""How much memory post-processing takes for large images: transformers takes 3.4 GiB for these."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc"),
]

GIB = 2**20  # in kilobytes
PROGRAM = """
import sys
import torch
from panodetr.compat import DetrFeatureExtractor, DetrSegmentationOutput
torch.manual_seed(0)
name, masks = sys.argv[1], int(sys.argv[2])
logits = torch.zeros(1, masks, 134)
logits[0, range(masks), range(masks)] = 20.0
outputs = DetrSegmentationOutput(
    logits=logits, pred_boxes=torch.rand(1, masks, 4), pred_masks=torch.randn(1, masks, 200, 267)
)
sizes = {"target_sizes": [(3000, 4000)], "threshold": 0.5}
if name == "post_process_semantic_segmentation":
    del sizes["threshold"]
if name == "post_process_panoptic":
    sizes["processed_sizes"] = [(800, 1066)]
(found,) = getattr(DetrFeatureExtractor(), name)(outputs, **sizes)
status = open("/proc/self/status").read()  # getrusage tells the process that forked, too
print(status.partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.parametrize(
    ("name", "masks", "most"),
    [
        ("post_process_panoptic_segmentation", 60, 1.0),
        ("post_process_panoptic_segmentation", 15, 1.0),
        ("post_process_instance_segmentation", 60, 1.0),
        ("post_process_semantic_segmentation", 60, 1.0),
        ("post_process_panoptic", 60, 1.4),
        ("post_process_segmentation", 15, 2.2),  # the masks that are asked for are 1.4 GiB
    ],
)
def test_post_processing_of_12_megapixels(name: str, masks: int, most: float) -> None:
    command = [sys.executable, "-c", PROGRAM, name, str(masks)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) / GIB <= most
