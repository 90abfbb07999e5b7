"""The processes that train together, through Hugging Face Accelerate, and signals that stop them.

Rank 0 writes the files. Accelerate comes with the extra `train`: it is imported where it is used.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import torch

from panodetr.errors import TrainingError, UsageError
from panodetr.runtimes.torch import choose_device
from panodetr.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def join_ranks(device: str, config: TrainConfig) -> Accelerator:
    """Join the processes that `torchrun` or `accelerate launch` has started, or run alone.

    Args:
        device: as for `panodetr.load`; of several processes each takes a GPU of its own.
        config: for the precision of the network, and what each process has of a step.

    Raises:
        UsageError: there is no such device, or a step cannot be shared out.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    chosen = choose_device(device)
    if ":" in device and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(chosen)  # Accelerate takes the current one
    # Accelerate keeps its settings for the whole process, and refuses others: of an earlier run.
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
    # Until masks are learned, the mask head's weights have no gradients to wait for.
    unused = DistributedDataParallelKwargs(find_unused_parameters=config.mask_start > 0)
    accelerator = Accelerator(
        cpu=chosen.type == "cpu",
        mixed_precision="bf16" if config.precision == "bfloat16" else "no",
        kwargs_handlers=[unused],
    )
    parts = accelerator.num_processes * config.accumulate
    if config.batch_size % parts:
        raise UsageError(
            f"batch_size is {config.batch_size}, to be shared by {accelerator.num_processes} "
            f"processes in accumulate={config.accumulate} parts each; expected a multiple of "
            f"{parts}"
        )
    return accelerator


@contextmanager
def explain_lost_rank(accelerator: Accelerator) -> Generator[None]:
    """Turn PyTorch's error about another process that has died into one line.

    Raises:
        TrainingError: another process has died, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        from torch.distributed import DistError

        if not isinstance(error, DistError) and "gloo" not in str(error):
            raise
        raise TrainingError(
            "another process of this run has ended, and what it printed says why; go on with "
            f"--resume, again in {accelerator.num_processes} processes"
        ) from error


def gather(value: T) -> list[T]:
    """Give every process what each of them has, by rank."""
    from accelerate.utils import gather_object

    return gather_object([value])


SIGNALS = (signal.SIGINT, signal.SIGTERM)

ONE_PRESS = 1.0
"""Seconds within which another SIGINT is the same one: a terminal and a launcher both send it."""

_NOTICE = (
    b"stopping when this step is done; Ctrl-C once more stops at once and keeps nothing of it\n"
)


class StopSignal:
    """Remembers the first SIGINT or SIGTERM within its `with` block; `aloud` says so on stderr.

    Signals that this process ignores stay ignored, and outside the main thread none can be taken.
    """

    def __init__(self, *, aloud: bool) -> None:
        self.number: int | None = None
        self._aloud = aloud
        self._first_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before or signal.SIG_DFL)  # pyright: ignore[reportArgumentType]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._first_at = number, now
            if self._aloud:
                os.write(2, _NOTICE)  # print may be at work already, and cannot be entered twice
        elif number == signal.SIGINT and now - self._first_at > ONE_PRESS:
            raise KeyboardInterrupt
