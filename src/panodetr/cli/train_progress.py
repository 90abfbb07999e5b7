"""The progress of `panodetr train`: a bar on a terminal, else plain lines."""

from __future__ import annotations

import time
from collections.abc import Sequence

from panodetr.cli.output import duration, make_bar, print_note
from panodetr.model.network import Network
from panodetr.training.log import Observer, Progress
from panodetr.training.validate import Validation


class TrainProgress(Observer):
    """Observes a run on stderr."""

    def __init__(self) -> None:
        """Show nothing yet; the bar is there within `with`, once the first step begins."""
        self.bar = make_bar()  # only on a terminal
        if self.bar:
            self._task = self.bar.add_task("learning", total=None, rate="")
        self._steps = self._images = 0
        self._began = self._since = (0, time.perf_counter())  # steps done, and when

    def __enter__(self) -> TrainProgress:
        """Draw the bar."""
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
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
