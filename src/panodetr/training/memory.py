"""Memory that runs out in a step, told in one line."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from panodetr.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Generator

    from panodetr.training.config import TrainConfig

_OF_THE_CPU = ("DefaultCPUAllocator", "not enough memory")
"""What torch's allocator says in an error that is not of a kind of its own."""


@contextmanager
def explain_oom(config: TrainConfig) -> Generator[None, None, None]:
    """Name the settings that make a step smaller where it needs more memory than there is.

    Raises:
        TrainingError: it does.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (
            isinstance(error, MemoryError | torch.OutOfMemoryError)
            or any(words in str(error) for words in _OF_THE_CPU)
        ):
            raise
        raise TrainingError(
            f"a step needs more memory than there is: {config.batch_size} images, in parts: "
            f"{config.accumulate}; give a higher accumulate, or checkpointing=true, which cost "
            "time alone, or a lower batch_size"
        ) from error
