"""What the C library's allocator does with memory that is no longer used."""

import ctypes

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

KEPT = 1 << 30  # bytes


def keep() -> None:
    """Lets this process use memory again that it freed, up to KEPT at a time, where glibc would give it back.

    The kernel clears all that it hands out, and a layer of f over 64 faces takes more than the 32 MiB that glibc keeps
    at the most: a conversion of faces spent a third of its CPU time on that. The peak stays what it was. Without glibc,
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)
