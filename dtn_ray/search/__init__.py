"""Search over α, β and γ with Ray Tune.

options    what is searched, and how
space      the search space
tuner      the trials
worth      a trial's objective
figures    pictures of a search
job        a whole search
"""

import os
from typing import Any

# Tune's newer console prints tables at any verbosity; ours are the lines.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

PICKLED = ("Lines", "OwnFirst", "Report", "SpareOwn")


def __getattr__(name: str) -> Any:
    """Classes of `tuner` that Ray Tune's files of a search name, where it began when `dtn_ray.search` was a module."""
    if name not in PICKLED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dtn_ray.search import tuner

    return getattr(tuner, name)
