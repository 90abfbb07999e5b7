from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.rows import Scale
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import DetrConfig, ResNetConfig


@pytest.fixture(scope="session")
def tiny_scale() -> Scale:
    """Work of the same kinds as the real one, done in milliseconds."""
    backbone = ResNetConfig(
        block="basic", depths=(1, 1, 1, 1), widths=(16, 16, 24, 32), stem_width=16
    )
    detector = DetrConfig(
        backbone=backbone, num_classes=6, num_queries=9, hidden_dim=128, ffn_dim=64,
        encoder_layers=2, decoder_layers=2,
    )  # fmt: skip
    segmenter = DetrConfig(
        backbone=backbone, num_classes=6, num_queries=9, hidden_dim=128, ffn_dim=64,
        encoder_layers=2, decoder_layers=2, masks=True,
    )  # fmt: skip
    return Scale(
        segmenter=segmenter,
        detector=detector,
        kept=3,
        rule=Preprocessing(short_side=96, long_side=160),
        fed=(96, 128),
        large=(300, 400),
        saved=(120, 160),
    )


@pytest.fixture(scope="session")
def few_nuclei(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set nuclei with one small image to learn from, and one to be measured on."""
    whole, folder = shared_data / "nuclei", tmp_path_factory.mktemp("few") / "nuclei"
    for split in ("train", "val"):
        document = json.loads((whole / f"panoptic_{split}.json").read_text())
        images = [i for i in document["images"] if (i["height"], i["width"]) == (256, 256)][:1]
        ids = {image["id"] for image in images}
        own = [note for note in document["annotations"] if note["image_id"] in ids]
        for name, kind in ((split, images), (f"panoptic_{split}", own)):
            (folder / name).mkdir(parents=True)
            for entry in kind:
                shutil.copy(whole / name / entry["file_name"], folder / name)
        few = document | {"images": images, "annotations": own}
        (folder / f"panoptic_{split}.json").write_text(json.dumps(few))
    return folder
