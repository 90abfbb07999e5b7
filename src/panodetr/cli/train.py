"""`panodetr train` and `recipes`: train a model by a recipe, and what recipes there are."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import chain
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from panodetr.cli.options import Device, Format, SourceOptions
from panodetr.cli.output import duration, make_bar, print_json, print_line, print_note
from panodetr.errors import Interrupted, UsageError
from panodetr.training.log import Observer, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panodetr.model.network import Network
    from panodetr.training.prepare import Request
    from panodetr.training.run import Outcome
    from panodetr.training.validate import Validation

RUNS = Path("runs") / "train"

SHOWN_ERRORS = 10

COCO_IMAGES = 118_287  # of train2017


def train(
    recipe: str | None = None,
    /,
    *,
    data: Path | None = None,
    source: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
    format: Format | None = None,
    split: str | None = None,
    val: str | None = None,
    val_split: Annotated[float | None, Parameter(validator=Number(gt=0, lt=1))] = None,
    class_name: Annotated[str | None, Parameter(name="--class")] = None,
    class_map: Annotated[list[str] | None, Parameter(name="--map")] = None,
    out: Path | None = None,
    name: str | None = None,
    changes: Annotated[list[str] | None, Parameter(name="--set")] = None,
    resume: bool = False,
    dry_run: bool = False,
    device: Device = "auto",
    json: bool = False,
) -> int:
    """Train a model by a recipe, from scratch or from a checkpoint.

    The run's folder holds config.json, log.jsonl, results.png, TensorBoard's events, pictures/ of
    training images and of predictions beside the ground truth, best/ and model/ (checkpoints for
    --model), and states/ to resume from.

    Ctrl-C and SIGTERM end a run when its step is done, and keep its state (exit code 130, 143).
    `panodetr train --resume` resumes the newest run in runs/train, that of a RECIPE or --name
    where one is given, or the one in --out; --set steps=N gives it more steps, --val none
    stops validation.

    Several GPUs or machines share a run: torchrun --nproc-per-node 4 -m panodetr train RECIPE
    --data FOLDER. The batch size is that of all of them together.

    Args:
        recipe: One of `panodetr recipes`.
        data: The folder of a data set, in any format that data check knows, or its annotation file.
        source: Where its files are.
        format: The data set's format. Default: the first of these that is found.
        split: The split to learn from. Default: train, or the only one.
        val: The split to validate with; none for no validation. Default: val, where it exists.
        val_split: Where there is no split val: hold out this share of the images, the same ones
            every time, and validate with them. held_out.txt in the run's folder lists them.
        class_name: The class of id maps, where their folder names none. Default: object.
        class_map: DATA=MODEL: a class of the data that takes the weights of a class of the starting
            model; may be repeated. Without it, classes of the same name do.
        out: The run's folder, which must hold no run. Default: runs/train/NAME, or NAME-2 and so on
            where there is one.
        name: Name of the run, in the default folder. Default: the recipe's.
        changes: KEY=VALUE, one value of the recipe to change; may be repeated.
        resume: Resume a run.
        dry_run: Build everything, check the data, do two steps, estimate time and memory. Writes
            nothing.
        device: Where to compute: cpu, cuda, cuda:1, mps, or auto, a CUDA GPU where there is one.
        json: Print the outcome as one JSON document.

    Raises:
        UsageError: the options contradict each other.
        PanodetrError: the recipe, the data or a value was refused, or training failed.
    """
    if out is not None and name is not None:
        raise UsageError("--name is for the default folder; give --out or --name")
    if class_map and resume:
        raise UsageError("--map is for a new run; one that is resumed keeps its own")
    if dry_run and resume:
        raise UsageError("--dry-run rehearses a new run; name its RECIPE and --data")
    if not resume and (recipe is None or data is None):
        raise UsageError("expected RECIPE and --data FOLDER, or --resume without both")
    from panodetr.training.prepare import Request

    request = Request(
        recipe=recipe,
        data=data,
        **vars(source),
        format=format,
        split=split,
        val=val,
        val_split=val_split,
        class_name=class_name,
        changes=(*(changes or ()), *_class_map(class_map or [])),
    )
    if dry_run:
        return _rehearse(request, device, as_json=json)
    from panodetr.training.folder import newest_run
    from panodetr.training.run import train as run

    name = name or recipe
    folder = out or (newest_run(RUNS, name) if resume else RUNS / str(name))
    with TrainProgress() as progress:
        try:
            numbered = out is None
            outcome = run(
                request, folder, numbered=numbered, resume=resume, device=device, observer=progress
            )
        except Interrupted as stopped:  # the observer has said so
            return 128 + stopped.signal  # as shells have it
    if outcome is not None and json:
        print_json(outcome)
    elif outcome is not None:
        print_line(closing(outcome))
    return 0


class TrainProgress(Observer):
    """Observes a run on stderr: a bar on a terminal, else plain lines."""

    def __init__(self) -> None:
        """Show nothing yet; the bar is there within `with`, once the first step begins."""
        self.bar = make_bar()  # only on a terminal
        if self.bar:
            self._task = self.bar.add_task("learning", total=None, rate="")
        self._steps = self._images = 0
        self._began = self._since = (0, time.perf_counter())  # steps done, and when

    def __enter__(self) -> TrainProgress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def note(self, text: str) -> None:
        """Print it."""
        self._print(text)

    def begin(self, step: int, steps: int, images: int) -> None:
        """Set the clock."""
        self._steps, self._images = steps, images
        self._began = self._since = (step, time.perf_counter())
        if step:
            self._print(f"going on after step {step}")
        if self.bar:
            self.bar.update(self._task, total=steps, completed=step)

    def stepped(self, step: int) -> None:
        """Move the bar on."""
        if self.bar:
            # Other than the time that is left, the speed is that of learning alone.
            done, seconds = step - self._since[0], time.perf_counter() - self._since[1]
            rate = f"{done * self._images / seconds:.1f} images/s  {self._left(step)}"
            self.bar.update(self._task, description="learning", completed=step, rate=rate)

    def progress(self, line: Progress) -> None:
        """Print losses, learning rate, speed and the time that is left."""
        losses = " ".join(f"{name} {value:.3f}" for name, value in line.losses.items())
        self._print(
            f"step {line.step}/{self._steps}  {losses}  rate {line.learning_rate:.1e}  "
            f"{line.images_per_second:.1f} images/s  {self._left(line.step)}"
        )

    def bad_step(self, step: int, image_ids: Sequence[int], figures: dict[str, float]) -> None:
        """Print which it was."""
        images = ", ".join(map(str, image_ids[:8])) + ("…" if len(image_ids) > 8 else "")
        self._print(
            f"step {step} is skipped: a loss or gradient is not finite; its images: {images}"
        )

    def validating(self, done: int, images: int) -> None:
        """Say on the bar how far it is."""
        if self.bar:
            self.bar.update(self._task, description=f"validating {done}/{images}")

    def validated(self, validation: Validation, model: Network) -> None:
        """Print the figures, first the one that the best model is picked by."""
        figures = {validation.measure: validation.score} | validation.figures
        shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        self._print(f"step {validation.step}/{self._steps}  validation: {shown}")
        self._since = (validation.step, time.perf_counter())
        if validation.step == 0:
            self._began = self._since

    def _left(self, step: int) -> str:
        """Say how much time is left, at the speed so far, validations and all."""
        done, seconds = step - self._began[0], time.perf_counter() - self._began[1]
        return f"{duration(seconds / done * (self._steps - step))} left"

    def _print(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print_note(text)


def _class_map(pairs: list[str]) -> list[str]:
    """Give the change that DATA=MODEL, perhaps several times, stands for."""
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(f"--map {pair}: expected DATA=MODEL, the names of two classes")
    joined = dict(pair.split("=", 1) for pair in pairs)
    return [f"class_map={dumps(joined)}"] if joined else []


def closing(outcome: Outcome) -> str:
    """Say where the model is, and how to try, evaluate and export it."""
    from panodetr.training.notes import NO_VALIDATION

    command = "segment" if outcome.masks else "detect"
    text = f"the model after step {outcome.steps} is in {outcome.model}"
    if outcome.steps < outcome.planned:
        text += f" (of {outcome.planned}: validations brought nothing better)"
    best = outcome.model
    if outcome.best is not None:
        best = outcome.best
        text += f"; the best one (validation {outcome.score:.3f}) in {best}"
    asked = outcome.request
    evaluate = f"the figures of the images that were held out are in {best / 'metrics.json'}"
    if asked.val_split is None or outcome.best is None:
        split = None if asked.val == NO_VALIDATION else asked.val
        given = {"data": asked.data, "split": split, "annotations": asked.annotations}
        given |= {"images": asked.images, "exif": asked.exif, "model": best}
        options = [(f"--{name}", value) for name, value in given.items() if value is not None]
        evaluate = _command("eval", *chain(*options))
    return (
        f"{text}\ntry it:      {_command(command, outcome.image, '--model', best)}"
        f"\nevaluate it: {evaluate}"
        f"\nexport it:   {_command('export', best, '--format', 'onnx', '--out', 'model.onnx.zip')}"
    )


def _command(*words: str | Path) -> str:
    """Write a command as any shell takes it."""
    written = (f'"{word}"' if " " in str(word) else str(word) for word in words)
    return " ".join(["panodetr", *written])


def _rehearse(request: Request, device: str, *, as_json: bool) -> int:
    """Print what a rehearsal found."""
    from panodetr.training.run import dry_run

    found = dry_run(request, device=device)
    config, errors = found.config, found.errors
    lines = [
        f"images          {found.images} to learn from, {found.val_images} to validate with",
        f"learned weights {found.parameters:,}",
        f"steps           {config.steps} of {config.batch_size} images",
        f"a step          {found.seconds:.2f} s, so about {duration(found.total_seconds)} in all",
    ]
    if found.peak_bytes is not None:
        lines.append(f"memory          {found.peak_bytes / 2**30:.1f} GiB at the peak of two steps")
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"warning: {warning}" for warning in found.warnings]
    check = f"panodetr data check {request.data}"
    if not found.checked:
        lines.append(f"note: not every file was read; {check} does that")
    lines += [f"error in the data: {error}" for error in errors[:SHOWN_ERRORS]]
    if len(errors) > SHOWN_ERRORS:
        lines.append(f"{len(errors)} errors in all; {check} lists them")
    if as_json:
        print_json(found)
    else:
        print_line("\n".join([*lines, "nothing was written"]))
    return 1 if errors else 0


def recipes(
    name: Annotated[str | None, Parameter(name="RECIPE")] = None,
    /,
    *,
    changes: Annotated[list[str] | None, Parameter(name="--set")] = None,
    json: bool = False,
) -> int:
    """List the training recipes, or show one in full, line by line as --set takes it.

    Steps and classes are those for COCO's train2017; `panodetr train` counts them from your data.

    Args:
        name: The one to show.
        changes: KEY=VALUE, one value of the recipe to change; may be repeated.
        json: Print one JSON document.

    Raises:
        PanodetrError: there is no such recipe, or a change was refused.
    """
    from panodetr.training.recipes import RECIPES, recipe_arguments

    if name is not None:
        _print_recipe(name, changes or [], as_json=json)
    elif changes:
        raise UsageError("--set changes a recipe; name one: panodetr recipes RECIPE --set …")
    elif json:
        print_json({name: list(recipe_arguments(recipe)) for name, recipe in RECIPES.items()})
    else:
        widest = max(len(name) for name in RECIPES)
        for name, recipe in RECIPES.items():
            summary = (recipe.__doc__ or "").splitlines()[0].replace("`", "")
            own = ", ".join(recipe_arguments(recipe))
            print_line(f"{name:{widest}}  {summary}" + (f" Its own --set: {own}." if own else ""))
    return 0


def _print_recipe(name: str, changes: list[str], *, as_json: bool) -> None:
    from panodetr.checkpoints.published import coco_detection, coco_panoptic
    from panodetr.training.config import list_fields
    from panodetr.training.recipes import RecipeData, configure, find_recipe, recipe_arguments

    arguments = recipe_arguments(find_recipe(name))
    if name == "finetune" and not any(change.startswith("start=") for change in changes):
        changes = ["start=nuclei", *changes]
        if not as_json:
            print_line("# start=nuclei is an example: the bundled model")
    classes = coco_detection() if name == "coco-detection" else coco_panoptic()
    numbered = tuple(replace(each, index=index) for index, each in enumerate(classes))
    data = RecipeData(categories=numbered, images=COCO_IMAGES, masks=True)
    config = configure(name, data, changes)
    fields = dict(list_fields(config))
    if as_json:
        print_json(fields, indent=2)
        return
    own = ", ".join(f"{key}={_text(value)}" for key, value in arguments.items())
    print_line(f"# its own: {own or 'none'}")
    names = [category.name for category in config.spec.categories]
    fields["spec.categories"] = f"{', '.join(names[:3])} … ({len(names)} classes, from the data)"
    for field, value in fields.items():
        print_line(f"{field}={_text(value)}")


def _text(value: object) -> str:
    """The value as --set takes it."""
    return value if isinstance(value, str) else dumps(value, separators=(",", ":"))
