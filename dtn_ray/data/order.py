"""The order of samples and their distribution to workers: pure functions of (seed, step, sizes).

No state is kept between batches, so the position at step k can be computed for any number of workers.
"""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=8)
def permutation(count: int, epoch: int, seed: int) -> np.ndarray:
    """The order of `count` samples in an epoch: int64, each index once."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch_indices(count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Indices of the samples in batch `step` (from 0): int64 of length `batch_size`.

    Batches are consecutive parts of an endless stream of epochs, each with its own permutation. No sample of an epoch
    is dropped; a batch may contain the end of one epoch and the beginning of the next. Raises ValueError if there are
    no samples.
    """
    if count < 1:
        raise ValueError("cannot draw batches from an empty set of samples")
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(positions, count)
    return np.concatenate([permutation(count, int(e), seed)[offsets[epochs == e]] for e in np.unique(epochs)])


def worker_slice(batch: np.ndarray, rank: int, workers: int) -> np.ndarray:
    """One worker's share of a global batch; the shares of all `workers` have the same length.

    Raises ValueError if the batch cannot be divided evenly, because samples would then have different weights.
    """
    if len(batch) % workers:
        raise ValueError(
            f"a batch of {len(batch)} cannot be divided evenly among {workers} workers: choose a multiple of {workers}"
        )
    share = len(batch) // workers
    return batch[rank * share : (rank + 1) * share]


def step_seed(seed: int, step: int) -> int:
    """Seed of everything random inside a step (augmentation, dropout, noise), the same on all workers.

    The training loop seeds torch with it at every step. The state of the random generator is thereby part of the
    position in the data, and a resumed run draws what an uninterrupted one would. Workers draw alike for the whole
    global batch, and each keeps what falls to its samples (dtn_ray/models/workers.py).
    """
    return int(np.random.SeedSequence([seed, step, 0]).generate_state(1, np.uint64)[0] >> 1)
