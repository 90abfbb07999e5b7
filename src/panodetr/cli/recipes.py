"""`panodetr recipes`: the runs that `panodetr train` knows by name, and all they are made of."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from panodetr.cli.arguments import Commands
    from panodetr.training.config import TrainConfig
    from panodetr.training.recipes import RecipeData

COCO_IMAGES = 118_287  # of train2017


def add_to(commands: Commands) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "recipes",
        help="list the training recipes, or show one in full",
        description="List the training recipes, or show one in full, line by line as --set takes "
        "it. Steps and classes are those for COCO's train2017; `panodetr train` counts them from "
        "your data.",
    )
    parser.add_argument("name", nargs="?", metavar="RECIPE", help="the one to show")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change one value of the recipe; may be given again",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the list or the recipe.

    Raises:
        PanodetrError: there is no such recipe, or a change was refused.
    """
    from panodetr.errors import UsageError

    if options.name is not None:
        _print_recipe(options.name, options.overrides)
    elif options.overrides:
        raise UsageError("--set changes a recipe; name one: panodetr recipes RECIPE --set …")
    else:
        _print_list()
    return 0


def _print_list() -> None:
    from panodetr.training.configure import recipe_arguments
    from panodetr.training.recipes import RECIPES

    widest = max(len(name) for name in RECIPES)
    for name, recipe in RECIPES.items():
        summary = (recipe.__doc__ or "").splitlines()[0].replace("`", "")
        own = ", ".join(recipe_arguments(recipe))
        print(f"{name:{widest}}  {summary}" + (f" Its own --set: {own}." if own else ""))


def _print_recipe(name: str, changes: list[str]) -> None:
    from panodetr.training.configure import configure, find_recipe, recipe_arguments
    from panodetr.training.overrides import list_fields

    arguments = recipe_arguments(find_recipe(name))
    if name == "finetune" and not any(change.startswith("start=") for change in changes):
        changes = ["start=nuclei", *changes]
        print("# start=nuclei is an example: the bundled model")
    config = configure(name, _example(name), changes)
    print(f"# its own: {', '.join(f'{key}={_text(v)}' for key, v in arguments.items()) or 'none'}")
    for field, value in list_fields(config):
        print(f"{field}={_classes(config) if field == 'spec.categories' else _text(value)}")


def _example(name: str) -> RecipeData:
    """COCO as the recipes see it, numbered from 0 as any data set."""
    from panodetr.checkpoints.published import coco_detection, coco_panoptic
    from panodetr.training.recipes import RecipeData

    classes = coco_detection() if name == "coco-detection" else coco_panoptic()
    return RecipeData(
        categories=tuple(replace(each, index=index) for index, each in enumerate(classes)),
        images=COCO_IMAGES,
        masks=True,
    )


def _classes(config: TrainConfig) -> str:
    names = [category.name for category in config.spec.categories]
    return f"{', '.join(names[:3])} … ({len(names)} classes, from the data)"


def _text(value: object) -> str:
    """The value as --set takes it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))
