"""Limits the memory for reading a network from others, because a few bytes of ONNX can request any amount."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

LEAST = 1 << 30
"""Bytes allowed for any network …"""
COPIES = 16
"""… plus so many times the size of its file, because readers copy it and gradients are computed …"""
PER_PIXEL = 8192
"""… plus so many bytes for each pixel of the pictures on which it is tried."""


@contextmanager
def allowance(size: int, pixels: int = 0) -> Iterator[None]:
    """During the `with`, larger allocations fail: torch raises RuntimeError, Python MemoryError. Linux only.

    `size`: bytes of the network's file. `pixels`: of a picture. It counts for the whole process, whose other threads
    should take little meanwhile.
    """
    used = _used()
    if resource is None or used is None:
        yield
        return
    # Threads started during the `with` would need memory, and the process dies if they get none.
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
    """Whether an error means that an allocation failed."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error)


def _used() -> int | None:
    """The memory that RLIMIT_DATA counts, in bytes; None if the system does not report it."""
    try:
        with open("/proc/self/status") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmData:"))
    except (OSError, StopIteration, ValueError):
        return None
