"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

README = Path(__file__).resolve().parents[1] / "README.md"


def snippet(containing: str) -> str:
    """The README's one Python block that contains some text."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (found,) = (block for block in blocks if containing in block)
    return found


def test_an_exported_model_runs_in_onnx_runtime_alone(tiny_onnx: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_onnx, tmp_path / "nuclei.onnx.zip")
    Image.effect_noise((200, 150), 90).save(tmp_path / "photo.png")
    for threshold in ("1", "0"):  # nothing is kept, and something
        code = snippet("onnxruntime").replace('about["threshold"]', threshold)
        code = "import sys; sys.modules['torch'] = sys.modules['panodetr'] = None\n" + code
        code += "\nassert len(inside) == len(kept), (len(inside), len(kept)); print(len(kept))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.stderr == ""
        assert int(done.stdout) == (0 if threshold == "1" else 5)
