"""Keeps one line of Ray's off the console: that actors have "constructor arguments in the object store".

Ray prints it in C++, once per process, when an actor that may be restarted gets an argument by reference, as every
actor of Ray Data does (github.com/ray-project/ray/issues/53727). The driver holds those references until the job ends,
and a user can do nothing about it.
"""

import os
import sys
from functools import cache
from typing import Any

import ray

NOWHERE = "no node of dtn-ray has this"


class _NeverStarted:
    def __init__(self, argument: Any) -> None:
        pass


@cache
def print_to_nobody() -> None:
    """Makes Ray print its line now, while the standard error leads nowhere. Ray must be connected."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        # No node has room for this actor, so that no process starts before it is removed.
        never: Any = ray.remote(_NeverStarted).options(num_cpus=0, resources={NOWHERE: 1}, max_restarts=1)
        ray.kill(never.remote(ray.put(None)))
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
