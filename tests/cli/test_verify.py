from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import panodetr as package
from panodetr.checkpoints import published
from panodetr.checkpoints.published import PUBLISHED, Published, Seen, coco_detection
from panodetr.checkpoints.save import save_pretrained
from panodetr.checkpoints.spec import ModelSpec
from panodetr.cli.main import main
from panodetr.model.config import RESNET18, DetrConfig
from panodetr.model.detr import Detr

Publish = Callable[..., Path]
PERSON = 1


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Publish a small model that takes everything for a person, under the digest of its file."""

    def publish(hub_id: str = "owner/tiny", digest: str | None = None, ap: float = 0.0) -> Path:
        shape = DetrConfig(
            backbone=RESNET18, num_classes=91, num_queries=3, hidden_dim=64, ffn_dim=8,
            encoder_layers=1, decoder_layers=1,
        )  # fmt: skip
        torch.manual_seed(0)
        model = Detr(shape).eval()
        torch.nn.init.zeros_(model.class_head.bias)
        model.class_head.bias.data[PERSON] = 30
        spec = ModelSpec(name="tiny", architecture=shape, categories=coco_detection())
        file = save_pretrained(tmp_path / "tiny.pth", spec, model, format="facebook")
        known = digest or hashlib.sha256(file.read_bytes()).hexdigest()[:8]
        file = file.rename(tmp_path / f"tiny-{known}.pth")
        entry = Published(
            hub_id=hub_id,
            file=file.name,
            architecture=shape,
            categories=coco_detection(),
            size=1,
            figures={"ap": ap},
        )
        monkeypatch.setattr(published, "PUBLISHED", (entry,))
        return file

    return publish


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_a_model_that_nobody_published_is_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["verify", "facebook/detr-resnet-5"]) == 2
    assert "known: facebook/detr-resnet-50, " in capsys.readouterr().err


def test_a_file_with_its_digest_is_as_published(
    publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(publish())]) == 0
    out = capsys.readouterr().out
    assert "owner/tiny: as published" in out
    assert "80 named classes" in out


def test_a_file_with_another_digest_is_told(
    publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(publish(digest="00000000"))]) == 1
    assert "owner/tiny: not as published: SHA-256" in capsys.readouterr().out


def test_another_architecture_is_told(
    publish: Publish, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish()
    entry = published.PUBLISHED[0]  # `publish` has left no other
    other = Published(
        hub_id=entry.hub_id,
        file=entry.file,
        architecture=PUBLISHED[0].architecture,
        categories=entry.categories,
        size=1,
        figures={},
    )
    monkeypatch.setattr(published, "PUBLISHED", (other,))
    assert main(["verify", str(file)]) == 1
    assert "not as published: architecture" in capsys.readouterr().out


@pytest.mark.parametrize(("moved", "code"), [(0.4, 0), (3.0, 1)])
def test_the_image_is_compared_with_the_documentation(
    publish: Publish,
    image: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    moved: float,
    code: int,
) -> None:
    file = publish("facebook/tiny")
    result = package.load(file, device="cpu").detect(image, threshold=0.9)
    seen = [
        Seen(found.label, found.score, (found.box[0] + moved, *found.box[1:]))
        for found in result.detections
    ]
    assert [found.label for found in seen] == ["person"] * 3
    monkeypatch.setattr(published, "DOCUMENTED", {"facebook/tiny": tuple(seen)})
    assert main(["verify", str(file), "--image", str(image), "--device", "cpu"]) == code
    assert capsys.readouterr().out.count("DIFFERS") == 3 * code


def test_without_documentation_the_cats_must_be_found(
    publish: Publish, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(publish("facebook/tiny")), "--image", str(image)]) == 1
    assert "not as published: cat, remote, couch" in capsys.readouterr().out


@pytest.mark.parametrize(("ap", "code"), [(0.1, 0), (42.0, 1)])
def test_figures_are_compared_on_coco(
    publish: Publish, image: Path, capsys: pytest.CaptureFixture[str], ap: float, code: int
) -> None:
    folder = image.parent / "coco"
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    image.rename(folder / "val2017" / "image.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16}
    truth = {
        "images": [{"id": 1, "file_name": "image.png", "height": 48, "width": 64}],
        "annotations": [{**box, "iscrowd": 0, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}],
        "categories": [{"id": c.id, "name": c.name} for c in coco_detection()],
    }
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(truth))
    assert main(["verify", str(publish(ap=ap)), "--coco", str(folder)]) == code
    assert f"{ap:.1f}" in capsys.readouterr().out


def test_a_image_that_cannot_be_fetched_is_one_line(
    publish: Publish,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    monkeypatch.setattr(published, "TWO_CATS_URL", "http://127.0.0.1:9/cats.jpg")
    assert main(["verify", str(publish("facebook/tiny"))]) == 1
    err = capsys.readouterr().err
    assert "cannot fetch http://127.0.0.1:9/cats.jpg" in err
    assert "--image" in err


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.hub_id)
def test_every_published_model_is_as_published(model: Published) -> None:
    assert main(["verify", model.hub_id]) == 0
