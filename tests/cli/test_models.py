from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

from panodetr.checkpoints.published import bundled

Program = Callable[..., "subprocess.CompletedProcess[str]"]


def test_models_are_listed_with_their_figures_licence_and_size(panodetr: Program) -> None:
    done = panodetr("models")
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split()[:5] == ["model", "where", "task", "size", "licence"]
    assert {"nuclei", *bundled(), "facebook/detr-resnet-50"} <= {row.split()[0] for row in rows}
    assert all(" MB " in row for row in rows)


def test_models_are_listed_as_json(panodetr: Program) -> None:
    done = panodetr("models", "--json")
    assert done.returncode == 0, done.stderr
    listed = {model["name"]: model for model in json.loads(done.stdout)}
    assert listed["facebook/detr-resnet-101-panoptic"]["figures"]["pq"] == 45.1
    assert listed["nuclei"]["where"] == "bundled"
