from __future__ import annotations

import json

import pytest

from panodetr.training.recipes import RECIPES

from .conftest import Program


def test_recipes_are_listed(panodetr: Program) -> None:
    done = panodetr("recipes")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(RECIPES)
    assert "start, epochs, validate_epochs, batch_size" in done.stdout
    for arguments in (("recipes",), ("recipes", "nuclei")):
        assert json.loads(panodetr(*arguments, "--json").stdout)
        assert panodetr(*arguments, "--quiet").stdout == ""


@pytest.mark.parametrize("name", ["coco-panoptic-masks", "finetune"])
def test_a_recipe_is_shown_in_full_as_it_is_set(panodetr: Program, name: str) -> None:
    done = panodetr("recipes", name, "--set", "criterion.giou=3")
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert {"clip=0.1", "criterion.giou=3.0"} <= set(shown)
    lines = [line for line in shown if not line.startswith("spec.categories=")]
    changes = [part for line in lines for part in ("--set", line)]
    again = panodetr("recipes", name, *changes)
    assert again.returncode == 0, again.stderr
    assert [line for line in again.stdout.splitlines() if not line.startswith("#")] == shown


def test_an_unknown_recipe_is_refused(panodetr: Program) -> None:
    done = panodetr("recipes", "coco")
    assert done.returncode == 2
    assert done.stderr.startswith("panodetr: error: there is no recipe 'coco'; ")
    assert done.stderr.count("\n") == 1
    assert "did you mean 'nuclei'?" in panodetr("recipes", "nuclie").stderr
    assert panodetr("recipes", "--set", "clip=1").returncode == 2
