"""Search over α, β and γ with Ray Tune.

options    the options of a search
space      the search space
tuner      runs the trials
worth      the objective of a trial
figures    figures of a search
job        a whole search
"""

import os
from typing import Any

# Tune's newer console prints tables at any verbosity; we print our own lines instead.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

PICKLED = ("Lines", "OwnFirst", "Report", "SpareOwn")


def __getattr__(name: str) -> Any:
    """Classes of `tuner` under their old names: searches begun when `dtn_ray.search` was a module pickled these."""
    if name not in PICKLED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dtn_ray.search import tuner

    return getattr(tuner, name)
