"""Table 4: whose emoji is it? Ranks of a person's other photo among many, by a face network that is not f. No Ray."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Counts:
    """For each probe, how many distractors are more similar than the mate, and how many exactly as similar."""

    above: np.ndarray
    equal: np.ndarray

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.above + other.above, self.equal + other.equal)

    def ranks(self) -> np.ndarray:
        """The mate's rank, from 1; among equals it takes the middle."""
        return 1 + self.above + self.equal / 2


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1: their products are cosines."""
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


def count(probes: np.ndarray, mates: np.ndarray, distractors: np.ndarray) -> Counts:
    """Compares one block of distractors N×features with the mates P×features of probes P×features, by cosine.

    Sums of the counts of all blocks are the counts of the whole gallery, so that it may have any size.
    """
    probes, mates, distractors = (unit(each.astype(np.float64)) for each in (probes, mates, distractors))
    wanted = (probes * mates).sum(1)[:, None]
    found = probes @ distractors.T
    # Equal features give cosines that differ in their last digits, by the order of summation.
    equal = np.abs(found - wanted) <= 1e-12
    return Counts(((found > wanted) & ~equal).sum(1), equal.sum(1))


def among_each_other(probes: np.ndarray, mates: np.ndarray) -> Counts:
    """The same where every probe's distractors are the other probes' mates."""
    above, equal = [], []
    for i in range(len(probes)):
        others = np.delete(mates, i, axis=0)
        counts = count(probes[i : i + 1], mates[i : i + 1], others)
        above.append(counts.above[0])
        equal.append(counts.equal[0])
    return Counts(np.array(above), np.array(equal))


def pairs(identities: Iterable[Any], seed: int = 0) -> list[tuple[int, int]]:
    """For each person of two photos or more, two of them, drawn by `seed`: indices of the probe and of its mate."""
    rng, places = np.random.default_rng(seed), dict[Any, list[int]]()
    for i, identity in enumerate(identities):
        places.setdefault(identity, []).append(i)
    drawn = [rng.choice(found, 2, replace=False) for found in places.values() if len(found) > 1]
    return [(int(probe), int(mate)) for probe, mate in drawn]


def summary(ranks: np.ndarray, gallery: int, seed: int = 0) -> dict[str, Any]:
    """Table 4's measures with 95 % intervals: of the median and mean by bootstrap, of the rates after Wilson."""

    def interval(statistic: Any) -> list[float]:
        found = stats.bootstrap(
            (ranks,), statistic, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed)
        ).confidence_interval
        return [round(float(found.low), 1), round(float(found.high), 1)]

    measures: dict[str, Any] = {"probes": len(ranks), "gallery": gallery}
    for name, statistic in (("median_rank", np.median), ("mean_rank", np.mean)):
        measures[name] = round(float(statistic(ranks)), 2)
        measures[f"{name}_interval"] = interval(statistic)
    for k in (1, 5):
        hits = int((ranks <= k).sum())
        found = stats.binomtest(hits, len(ranks)).proportion_ci(method="wilson")
        measures[f"rank_{k}"] = round(hits / len(ranks), 4)
        measures[f"rank_{k}_interval"] = [round(found.low, 4), round(found.high, 4)]
    return measures
