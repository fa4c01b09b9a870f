"""Which sample comes when, on which worker: pure functions of (seed, step, sizes).

No state is kept between batches, so resuming at step k, with any number of workers, is arithmetic.
"""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=8)
def permutation(count: int, epoch: int, seed: int) -> np.ndarray:
    """Order of `count` samples in an epoch: int64, each index once."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch_indices(count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Indices of the samples in batch `step` (from 0): int64 of length `batch_size`.

    Batches cut one endless stream of epochs, each a permutation of its own, so no sample of an epoch is dropped; a
    batch may straddle two epochs. Raises ValueError where there is no sample to draw.
    """
    if count < 1:
        raise ValueError("cannot draw batches from an empty set of samples")
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(positions, count)
    return np.concatenate([permutation(count, int(e), seed)[offsets[epochs == e]] for e in np.unique(epochs)])


def worker_slice(batch: np.ndarray, rank: int, workers: int) -> np.ndarray:
    """The share of a global batch that falls to one of `workers` workers; all shares have the same length.

    Raises ValueError where the batch does not divide evenly: uneven shares would weigh samples unequally.
    """
    if len(batch) % workers:
        raise ValueError(
            f"a batch of {len(batch)} does not divide among {workers} workers: choose a multiple of {workers}"
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
