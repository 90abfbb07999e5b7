"""The processes that train together, through Hugging Face Accelerate.

Each has a rank, counted from 0; the one of rank 0 writes the files. One process alone is the same
thing with nobody to wait for. Accelerate is imported only where it is used: it comes with the extra
`train`, and whoever lacks that is told so by `panodetr.training.prepare`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from panodetr.runtimes.torch import choose_device

if TYPE_CHECKING:
    from accelerate import Accelerator

    from panodetr.model.detr import Detr
    from panodetr.training.config import TrainConfig

T = TypeVar("T")


def join_ranks(device: str, config: TrainConfig) -> Accelerator:
    """Meet the other processes, and choose where and how precisely to compute.

    Started by `torchrun` or `accelerate launch`, this process finds the others by the environment
    that they set; else it is alone.

    Args:
        device: "auto", "cpu" or "cuda"; with several GPUs each process takes its own.
        config: for the precision of the network.

    Raises:
        UsageError: there is no such device.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    # Accelerate keeps its settings for the whole process, and refuses others: of an earlier run.
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
    # Until masks are learned, the mask head's weights have no gradients to wait for.
    unused = DistributedDataParallelKwargs(find_unused_parameters=config.mask_start > 0)
    return Accelerator(
        cpu=choose_device(device).type == "cpu",
        mixed_precision="bf16" if config.precision == "bfloat16" else "no",
        kwargs_handlers=[unused],
    )


def gather(accelerator: Accelerator, value: T) -> list[T]:
    """Give every process what each of them has, by rank."""
    if accelerator.num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])


def share_buffers(accelerator: Accelerator, model: Detr) -> None:
    """Give every process the running statistics of rank 0's live batch norms."""
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast

        for buffer in model.buffers():
            broadcast(buffer)
