"""Dropout at half the cost on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANCES = 1 << 16
"""Values of a random number of 16 bits."""


class Dropout(nn.Dropout):
    """Drops each value with probability `p`, to the nearest 1/65536, and scales up the others.

    torch's own draws a random number of 64 bits a value on the CPU, and keeps the choice as a
    float: here four values share one, and a choice takes a byte. Elsewhere this is torch's own.
    `benchmarks/training.py` measures it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop in training alone; the result has the shape of `input`."""
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        count = input.numel()
        random = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
        chance = random.view(torch.int16)[:count].view(input.shape)  # -32768 to 32767
        keep = chance >= round(self.p * CHANCES) - CHANCES // 2
        return input.mul(keep).mul_(1 / (1 - self.p))
