"""Distinguishes refusals of single objects from a failure to read anything: wrong credentials, a deleted source.

A denied object is not tried again, and --max-failure-rate does not count it. Both would be wrong for a bucket that
denies every object, or for a node that can read none. When most objects of a group are refused, the driver therefore
reads a few of them itself, which must fail too, and then other objects, of which at least one must succeed: some that
were read before, and some from all over the work list. Otherwise the store counts as failed: the run ends, and the next
run tries again.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa

from dtn_ray import storage
from dtn_ray.bulk.ledger import OUTCOME
from dtn_ray.bulk.options import BulkJob
from dtn_ray.bulk.pipeline import source_uri
from dtn_ray.bulk.plan import Plan
from dtn_ray.bulk.tally import Tally
from dtn_ray.failures import CAUSES, IMAGE, MODEL, STORE

READ_BEFORE = 8  # the driver tries at most so many objects that were read before …
LISTED = 64  # … and so many of the work list
AT_ONCE = 8
WERE_READ = (None, IMAGE, MODEL)  # causes of objects whose content could be read


def believed(outcomes: pa.Table, job: BulkJob, plan: Plan, done: Tally) -> pa.Table:
    """The outcomes, with the cause `store` for refusals that are not accepted; `done`: the earlier outcomes.

    Refusals are checked if their share among refused and read objects is above `max_failure_rate`; with a rate of 1,
    never.
    """
    causes = outcomes["cause"].to_pylist()
    doubts = {i: CAUSES[cause].doubt for i, cause in enumerate(causes) if cause in CAUSES and CAUSES[cause].doubt}
    read = sum(cause in WERE_READ for cause in causes)
    if len(doubts) <= job.max_failure_rate * (len(doubts) + read):
        return outcomes
    keys = outcomes["key"].to_pylist()
    if _any_readable(job, [keys[i] for i in islice(doubts, AT_ONCE)]):
        why = "though the driver can read it: check the credentials of each node"
    elif _any_readable(job, _others(job, plan, done)):
        return outcomes
    else:
        why = "and so is every other object that was tried: {}"
    reasons = outcomes["reason"].to_pylist()
    for i, doubt in doubts.items():
        causes[i], reasons[i] = STORE, f"{reasons[i]}, {why.format(doubt)}"
    for name, values in (("cause", causes), ("reason", reasons)):
        column = outcomes.column_names.index(name)
        outcomes = outcomes.set_column(column, OUTCOME.field(name), pa.array(values, pa.string()))
    return outcomes


def _any_readable(job: BulkJob, keys: Iterable[str]) -> bool:
    uris = (source_uri(job.source, key) for key in keys)
    while some := list(islice(uris, AT_ONCE)):
        if any(isinstance(content, bytes) for content in storage.read_many(some)):
            return True
    return False


def _others(job: BulkJob, plan: Plan, done: Tally) -> Iterator[str]:
    """Keys of objects to try, without those that are too large to be read."""
    before = [row for tally in (done, plan.settled) for _, row in tally.sample]
    listed = pa.concat_tables(plan.sample).select(["key", "size"])
    chosen = np.linspace(0, len(listed) - 1, min(LISTED, len(listed))).astype(int)
    for row in [*before[:READ_BEFORE], *listed.take(chosen).to_pylist()]:
        if (row["size"] or 0) <= job.max_bytes:
            yield row["key"]
