"""What the documents show runs as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from tests.process import python

import panodetr
from panodetr.images.preprocess import resize
from panodetr.results.decode import keep_queries, softmax

DEPLOY = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "deploy.md"


def snippet(containing: str) -> str:
    """The page's one Python block that contains some text."""
    page = DEPLOY.read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (found,) = (block for block in blocks if containing in block)
    return found


def test_an_exported_model_runs_in_onnx_runtime_alone(tiny_onnx: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_onnx, tmp_path / "nuclei.onnx.zip")
    noise = np.random.default_rng(3).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    tile = resize(noise[:128, :128], (192, 192))
    found = panodetr.load(tiny_onnx).runtime.detect(tile[None], None)
    scores = np.sort(softmax(found.logits[0])[:, :-1].max(axis=-1))
    middle = float(scores[1:3].mean())
    for threshold, count in ((1.0, 0), (middle, 3), (0.0, 5)):
        kept = keep_queries(found.logits[0], threshold)[0]
        inside = found.masks([kept])[0].logits() > 0
        code = snippet("onnxruntime").replace('about["threshold"]', str(threshold))
        code = "import sys; sys.modules['torch'] = sys.modules['panodetr'] = None\n" + code
        code += "\nnp.savez('answer', kept=kept, inside=inside, scores=scores)"
        done = python("-c", code, cwd=tmp_path)
        assert done.stderr == ""
        answer = np.load(tmp_path / "answer.npz")
        assert len(kept) == count
        assert answer["kept"].tolist() == kept.tolist()
        assert answer["inside"].tolist() == inside.tolist()
        np.testing.assert_allclose(answer["scores"], softmax(found.logits[0]), atol=1e-6)
