"""What depends on the whole global batch, on a worker that has a share of it. Without a process group: one worker.

The workers of a data-parallel training hold shares of equal size, one after the other by rank, and seed torch alike.
What is computed here is then the same for any number of workers.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def place() -> tuple[int, int]:
    """Rank and number of the workers that train together."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def drawn_by_sample(draw: Callable[..., Tensor], count: int, *shape: int, **options: Any) -> Tensor:
    """Random numbers for this worker's `count` samples, `count`×`shape`: those that one worker alone would draw.

    `draw`: such as torch.rand. Each worker draws for the whole global batch, because a generator cannot skip what
    falls to the others.
    """
    rank, workers = place()
    drawn = draw(workers * count, *shape, **options)
    return drawn if workers == 1 else drawn[rank * count : (rank + 1) * count]


class Dropout(nn.Dropout):
    """Dropout whose mask is drawn by sample. Input N×…, N the same on every worker."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or place()[1] == 1:
            return super().forward(x)
        return x * drawn_by_sample(self._mask, *x.shape, device=x.device, dtype=x.dtype)

    def _mask(self, *shape: int, **options: Any) -> Tensor:
        return F.dropout(torch.ones(shape, **options), self.p)


def next_samples(x: Tensor) -> Tensor:
    """The next sample of the global batch for each of this worker's N×…, after the last one the first; with gradients.

    Every worker must call it.
    """
    rank, workers = place()
    if workers == 1:
        return x.roll(-1, 0)
    firsts = all_reduce(F.pad(x[:1], [0, 0] * (x.ndim - 1) + [rank, workers - 1 - rank]))
    following = (rank + 1) % workers
    return torch.cat([x[1:], firsts[following : following + 1]])


def mean_of_all(x: Tensor) -> Tensor:
    """The mean of all workers' `x`, of any one shape; without gradients. Every worker must call it."""
    workers = place()[1]
    if workers == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / workers
