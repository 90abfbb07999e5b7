from __future__ import annotations

import subprocess
from collections.abc import Callable

from panodetr.checkpoints.published import bundled

Program = Callable[..., "subprocess.CompletedProcess[str]"]


def test_every_bundled_model_is_listed_with_its_size(panodetr: Program) -> None:
    done = panodetr("models")
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["model", "classes", "parameters", "size", "PQ", "things"]
    assert [row.split()[0] for row in rows] == sorted(bundled())
    assert all(" M " in row and " MB " in row for row in rows)
    assert "nuclei" in bundled()
