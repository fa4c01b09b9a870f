"""Limits the memory that a network from others may take while it is read: a few bytes of ONNX can ask for any."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

LEAST = 1 << 30
"""Bytes for any network."""
COPIES = 16
"""… and so many times what its file has: readers copy it, and gradients are taken."""
PER_PIXEL = 8192
"""… and so many for each pixel of the pictures that it is tried on."""


@contextmanager
def allowance(size: int, pixels: int = 0) -> Iterator[None]:
    """Within, what would take more memory fails: torch raises RuntimeError, Python MemoryError. Linux only.

    `size`: bytes of the network's file. `pixels`: of a picture. It counts for the whole process, whose other threads
    should take little meanwhile.
    """
    used = _used()
    if resource is None or used is None:
        yield
        return
    # Threads that are started within would need memory, and the process ends where they get none.
    torch.zeros(torch.get_num_threads() << 15).exp()
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + LEAST + COPIES * size + PER_PIXEL * pixels
    if before != resource.RLIM_INFINITY:
        limit = min(limit, before)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def is_exceeded(error: BaseException) -> bool:
    """Whether an error tells that memory was not to be had."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error)


def _used() -> int | None:
    """What RLIMIT_DATA counts, in bytes; None where the system does not tell."""
    try:
        with open("/proc/self/status") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmData:"))
    except (OSError, StopIteration, ValueError):
        return None
