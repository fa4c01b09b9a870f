"""What reading somebody's file takes: memory and time of a process that does nothing else.

Such a process is forked from a server that has imported the modules it needs, since importing them takes seconds.
"""

import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    [
        *("dtn_ray.images.decode", "dtn_ray.images.encode", "dtn_ray.data.windows", "dtn_ray.convert.people"),
        *("dtn_ray.listing.inventory", "pyarrow.dataset", "pyarrow.parquet"),
    ]
)


def in_a_process(function: Callable[..., Any], *arguments: Any, timeout: float = 280) -> Any:
    """What a function of this module returns, called in a new process."""
    with ProcessPoolExecutor(1, mp_context=FORKING) as pool:
        return pool.submit(function, *arguments).result(timeout)


def outcomes(work: Sequence[Callable[[], Any]], threads: int = 1) -> dict[str, Any]:
    """What each call gives or refuses, the seconds of all, and the MiB that the process grew by."""
    from dtn_ray.errors import UserError

    def told(_: int) -> list[str]:
        said = []
        for each in work:
            try:
                said.append(str(each()))
            except UserError as error:
                said.append(f"refused: {error}")
            except ValueError as error:
                said.append(str(error))
        return said

    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        said, *_ = pool.map(told, range(threads))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"grown": grown >> 10, "seconds": time.monotonic() - began, "said": said}


def decode(content: bytes, threads: int) -> dict[str, Any]:
    """`outcomes` of a file as a square of 64 pixels and as a whole photo, in so many threads: the shapes."""
    import numpy as np

    from dtn_ray.images.decode import decode, photo
    from dtn_ray.images.encode import encode

    decode(encode(np.zeros((3, 8, 8), np.uint8)), 8, 1000)
    work = (lambda: decode(content, 64, 120_000_000).shape, lambda: photo(content, 120_000_000)[0].shape)
    return outcomes(work, threads)


def read_table(uri: str, warm: str) -> dict[str, Any]:
    """`outcomes` of a Parquet file read as by a training (rows of each block), then as by `--people` (people)."""
    import pyarrow as pa

    from dtn_ray.convert import people
    from dtn_ray.data.rows import find_groups
    from dtn_ray.data.windows import Window, read_window

    def train(uri: str) -> list[int]:
        groups = find_groups(uri, ("image", "identity"))
        return [len(block["image"]) for block in read_window(Window(tuple(groups), (0,)), 8, ["identity"])]

    def look_up(uri: str) -> int:
        return len(people._by_table(uri, pa.chunked_array([["a", "b"]])))

    for work in (train, look_up):
        work(warm)
    return outcomes([lambda: train(uri), lambda: look_up(uri)])


def read_list(path: str, source: str) -> dict[str, Any]:
    """Rows and bad lines of a list, the error that ended it, and the peak of this process and its children in MiB."""
    from dtn_ray.errors import UserError
    from dtn_ray.listing.inventory import open_inventory, read_inventory

    odd: Counter[str] = Counter()
    rows, error = 0, ""
    try:
        for file in open_inventory(path):
            for table in read_inventory(file, source, lambda reason, name: odd.update([reason])):
                rows += len(table)
    except UserError as refused:
        error = str(refused)
    peaks = (resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"rows": rows, "odd": dict(odd), "error": error, "peak": max(peaks) >> 10}
