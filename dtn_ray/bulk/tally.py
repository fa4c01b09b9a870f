"""What is kept of rows of the ledger that are too many to keep: counts, a histogram, a random sample. Sums add up."""

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtn_ray.images.repair import IN_PART
from dtn_ray.text import display

SAMPLE = 256
REASONS = 1000
FAILURES = 20
# Scores depend on f's scale, so the bins are narrow and wide apart in all: 3 % each, from 0.001 to 1,000.
EDGES = np.geomspace(1e-3, 1e3, 468)


@dataclass
class Tally:
    """Of rows of ledger.SCHEMA, in any order and from anywhere."""

    converted: int = 0
    failed: int = 0
    no_face: int = 0
    """Photos in which no face was found."""
    faces: int = 0
    """Those found in the others."""
    in_part: int = 0
    """Images that are cut short, and of which --truncated accept took what is there."""
    bytes: int = 0
    """Of the source objects."""
    causes: Counter[str] = field(default_factory=Counter)
    """How many failed for each cause."""
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many failed for each cause and reason, numbers in it left out; the 1,000 most frequent."""
    failures: dict[str, str] = field(default_factory=dict)
    """The reasons of a few, by key."""
    scores: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES) + 1, np.int64))
    """Histogram of the scores: below, between and above EDGES."""
    sample: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    """A random sample of converted rows, each with the random number that it was chosen by."""

    def add(self, rows: pa.Table, seed: int = 0) -> None:
        """Counts rows. Two tables of one tally need different seeds for their sample to be random."""
        failure = pc.field("status") == "failed"
        converted = rows.filter(pc.field("status") == "converted")
        failed, done = (rows.filter(condition) for condition in (failure, ~failure))
        other = Tally(
            converted=len(converted),
            failed=len(failed),
            no_face=len(rows.filter(pc.field("status") == "no face")),
            faces=_sum(pc.call_function("list_value_length", [rows["faces"]])),
            in_part=_sum(pc.call_function("ends_with", [done["reason"]], pc.MatchSubstringOptions(IN_PART))),
            bytes=_sum(rows["size"]),
        )
        other.causes.update(cause or "" for cause in failed["cause"].to_pylist())
        for row in failed.select(["cause", "reason", "key"]).to_pylist():
            other.reasons[row["cause"] or "", re.sub(r"\d+", "…", row["reason"] or "")] += 1
            if len(other.failures) < FAILURES:
                key = row["key"]
                other.failures[key if len(key) <= display.LONGEST_NAME else display.name(key)] = row["reason"] or ""
        found = np.digitize(converted["score"].drop_null().to_numpy(zero_copy_only=False), EDGES)
        other.scores = np.bincount(found, minlength=len(EDGES) + 1)
        priorities = np.random.default_rng([seed, len(converted)]).random(len(converted))
        chosen = np.argsort(priorities)[:SAMPLE]
        other.sample = list(zip(priorities[chosen].tolist(), converted.take(chosen).to_pylist(), strict=True))
        self.merge(other)

    def merge(self, other: "Tally") -> None:
        """Adds what another tally counted."""
        self.converted += other.converted
        self.failed += other.failed
        self.no_face += other.no_face
        self.faces += other.faces
        self.in_part += other.in_part
        self.bytes += other.bytes
        self.causes = self.causes + other.causes
        self.reasons = Counter(dict((self.reasons + other.reasons).most_common(REASONS)))
        self.failures = dict(islice((self.failures | other.failures).items(), FAILURES))
        self.scores = self.scores + other.scores
        self.sample = sorted([*self.sample, *other.sample], key=lambda chosen: chosen[0])[:SAMPLE]


def _sum(values: pa.ChunkedArray) -> int:
    return pc.call_function("sum", [values]).as_py() or 0
