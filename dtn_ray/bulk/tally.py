"""Statistics of any number of ledger rows in bounded memory: counts, a histogram, a few rows. Tallies can be merged."""

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtn_ray.bulk.kinds import FAILED, Kind
from dtn_ray.bulk.ledger import Row
from dtn_ray.images.repair import IN_PART
from dtn_ray.text import display

SAMPLE = 256
EXTREMES = 12  # rows of the lowest scores, and as many of the highest
REASONS = 1000
REASONS_WITH_EXAMPLES = 100
EXAMPLES = 20  # keys for each of these reasons
FAILURES = 20
# Scores depend on the scale of f, so the bins are narrow (3 % each) and cover a wide range, 0.001 to 1,000.
EDGES = np.geomspace(1e-3, 1e3, 468)


Scored = tuple[float, str, Row]
"""Score, key and row of the ledger; sorted by score and key."""
Reason = tuple[str, str]
"""A cause, and the reason of a failure without the numbers in it."""


@dataclass
class Tally:
    """Statistics of rows of a ledger, in any order. Its size does not grow with the number of rows."""

    statuses: Counter[str] = field(default_factory=Counter)
    """Number of rows by status, as in the ledger."""
    counts: Counter[str] = field(default_factory=Counter)
    """Totals by the names of the kind's counts."""
    in_part: int = 0
    """Truncated images that --truncated accept accepted in part."""
    bytes: int = 0
    """Bytes of the source objects."""
    causes: Counter[str] = field(default_factory=Counter)
    """Number of failures by cause."""
    reasons: Counter[Reason] = field(default_factory=Counter)
    """Number of failures by cause and reason; only the 1,000 most frequent."""
    examples: dict[Reason, list[tuple[str, str]]] = field(default_factory=dict)
    """Keys and full reasons of a few failures, for the 100 most frequent reasons."""
    failures: dict[str, str] = field(default_factory=dict)
    """The full reasons of a few failures, by key."""
    scores: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES) + 1, np.int64))
    """Histogram of the scores: below, between and above EDGES."""
    best: list[Scored] = field(default_factory=list)
    """The rows with the lowest scores, the lowest first."""
    worst: list[Scored] = field(default_factory=list)
    """The rows with the highest scores, the highest first."""
    sample: list[tuple[float, Row]] = field(default_factory=list)
    """A random sample of rows with a result, each with its random priority."""

    @property
    def failed(self) -> int:
        return self.statuses[FAILED]

    def add(self, rows: pa.Table, kind: Kind, seed: int = 0) -> None:
        """Counts rows of a job's ledger. Each table added to a tally needs its own seed, for the random sample."""
        failure = pc.field("status") == FAILED
        made = rows.filter(pc.field("status") == kind.made.name)
        failed, done = (rows.filter(condition) for condition in (failure, ~failure))
        other = Tally(
            statuses=Counter(dict(_counted(rows["status"]))),
            counts=Counter({count.name: _total(rows, count.column) for count in kind.counts}),
            in_part=_sum(pc.call_function("ends_with", [done["reason"]], pc.MatchSubstringOptions(IN_PART))),
            bytes=_sum(rows["size"]),
        )
        other.causes.update(cause or "" for cause in failed["cause"].to_pylist())
        for row in failed.select(["cause", "reason", "key"]).to_pylist():
            key, told = display.name(row["key"]), row["reason"] or ""
            reason = row["cause"] or "", re.sub(r"\d+", "…", told)
            other.reasons[reason] += 1
            examples = other.examples.setdefault(reason, [])
            if len(examples) < EXAMPLES:
                examples.append((key, told))
            if len(other.failures) < FAILURES:
                other.failures[row["key"] if len(row["key"]) <= display.LONGEST_NAME else key] = told
        scores = made["score"].to_numpy(zero_copy_only=False)
        known = np.flatnonzero(np.isfinite(scores))
        found = np.digitize(made["score"].drop_null().to_numpy(zero_copy_only=False), EDGES)
        other.scores = np.bincount(found, minlength=len(EDGES) + 1)
        order = known[np.argsort(scores[known], kind="stable")]
        other.best, other.worst = (_scored(made.take(some)) for some in (order[:EXTREMES], order[::-1][:EXTREMES]))
        priorities = np.random.default_rng([seed, len(made)]).random(len(made))
        chosen = np.argsort(priorities)[:SAMPLE]
        other.sample = list(zip(priorities[chosen].tolist(), made.take(chosen).to_pylist(), strict=True))
        self.merge(other)

    def merge(self, other: "Tally") -> None:
        """Adds another tally."""
        self.statuses = self.statuses + other.statuses
        self.counts = self.counts + other.counts
        self.in_part += other.in_part
        self.bytes += other.bytes
        self.causes = self.causes + other.causes
        self.reasons = Counter(dict((self.reasons + other.reasons).most_common(REASONS)))
        both = (self.examples, other.examples)
        self.examples = {
            reason: [example for examples in both for example in examples.get(reason, [])][:EXAMPLES]
            for reason, _ in self.reasons.most_common(REASONS_WITH_EXAMPLES)
        }
        self.failures = dict(islice((self.failures | other.failures).items(), FAILURES))
        self.scores = self.scores + other.scores
        self.best = sorted([*self.best, *other.best], key=lambda each: each[:2])[:EXTREMES]
        self.worst = sorted([*self.worst, *other.worst], key=lambda each: (-each[0], each[1]))[:EXTREMES]
        self.sample = sorted([*self.sample, *other.sample], key=lambda chosen: chosen[0])[:SAMPLE]


def _counted(values: pa.ChunkedArray) -> list[tuple[str, int]]:
    return [(each["values"] or "", each["counts"]) for each in pc.call_function("value_counts", [values]).to_pylist()]


def _scored(rows: pa.Table) -> list[Scored]:
    return [(row["score"], row["key"], row) for row in rows.to_pylist()]


def _total(rows: pa.Table, column: str) -> int:
    """The number of elements of a list column, or the sum of numbers; 0 if older rows lack the column."""
    if column not in rows.column_names:
        return 0
    values = rows[column]
    return _sum(pc.call_function("list_value_length", [values]) if pa.types.is_list(values.type) else values)


def _sum(values: pa.ChunkedArray) -> int:
    return pc.call_function("sum", [values]).as_py() or 0
