"""Table 4: the rank of a person's other photo among many, by a face network other than f. Does not import Ray."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# The paper's values for a gallery of 100,001, reported beside our measurements.
PAPER = {
    "emoji": {"median_rank": 16, "mean_rank": 535.47, "rank_1": 0.2288, "rank_5": 0.3475, "gallery": 100_001},
    "manual_emoji": {"median_rank": 16311, "mean_rank": 27992.34, "rank_1": 0.0, "rank_5": 0.0, "gallery": 100_001},
}

# Cosines that differ by less count as equal: float32 features of the same image differ this much between machines.
SAME = 1e-6

PROBES_AT_ONCE = 256
RESAMPLES = 2000
Z = 1.959964  # quantile of the normal distribution for 95 %


@dataclass(frozen=True)
class Counts:
    """For each probe, how many distractors are more similar than the mate, and how many equally similar; P int64."""

    above: np.ndarray
    equal: np.ndarray

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.above + other.above, self.equal + other.equal)

    def ranks(self) -> np.ndarray:
        """The mate's rank, from 1; among equals it is in the middle. P float64, multiples of one half."""
        return 1 + self.above + self.equal / 2


def unit(features: np.ndarray) -> np.ndarray:
    """N×features to float64 rows of length 1 (or 0): their products are cosines. Raises ValueError for nan and inf."""
    features = features.astype(np.float64)
    if not np.isfinite(features).all():
        raise ValueError("features have values that are not finite")  # their ranks would be 1, as nothing exceeds a nan
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


def count(probes: np.ndarray, mates: np.ndarray, distractors: np.ndarray) -> Counts:
    """Compares one block of distractors N×features with the mates P×features of probes P×features, by cosine.

    The counts of all blocks add up to the counts of the whole gallery, so the gallery may have any size. Raises
    ValueError for features that are nan or infinite.
    """
    probes, mates, distractors = unit(probes), unit(mates), unit(distractors)
    return _compare(probes @ distractors.T, (probes * mates).sum(1), np.array(True))


def among_each_other(probes: np.ndarray, mates: np.ndarray, persons: np.ndarray) -> Counts:
    """As `count`, with the mates of all other persons as distractors; `persons`: the person of each probe, P."""
    probes, mates = unit(probes), unit(mates)
    wanted, counts = (probes * mates).sum(1), Counts(np.empty(0, np.int64), np.empty(0, np.int64))
    for i in range(0, len(probes), PROBES_AT_ONCE):
        some = slice(i, i + PROBES_AT_ONCE)
        found = _compare(probes[some] @ mates.T, wanted[some], persons[some, None] != persons)
        counts = Counts(np.append(counts.above, found.above), np.append(counts.equal, found.equal))
    return counts


def _compare(found: np.ndarray, wanted: np.ndarray, among: np.ndarray) -> Counts:
    above = found - wanted[:, None]
    return Counts(((above > SAME) & among).sum(1), ((np.abs(above) <= SAME) & among).sum(1))


@dataclass(frozen=True)
class Hit:
    """A distractor that is among the most similar to a probe."""

    cosine: float
    place: tuple[str, int, int]
    """Its file, row group, and row in it."""
    image: bytes
    """Encoded, as in the file."""


def best(hits: Iterable[Hit], number: int = 3) -> list[Hit]:
    """The most similar hits, best first; equals in the order of the files. The best of parts can be merged again."""
    return sorted(hits, key=lambda hit: (-round(hit.cosine, 9), hit.place))[:number]


def pairs(identities: Iterable[Any], seed: int = 0, per_person: int = 1) -> list[tuple[int, int]]:
    """For each person with two photos or more, random pairs of photos: indices of the probe and of its mate.

    No pair is drawn twice, so a person may have fewer than `per_person`. The identity None is ignored.
    """
    rng, places, drawn = np.random.default_rng(seed), dict[Any, list[int]](), list[tuple[int, int]]()
    for i, identity in enumerate(identities):
        if identity is not None:
            places.setdefault(identity, []).append(i)
    for found in places.values():
        wanted, taken = min(per_person, len(found) * (len(found) - 1) // 2), set[frozenset[int]]()
        while len(taken) < wanted:
            probe, mate = map(int, rng.choice(found, 2, replace=False))
            if frozenset((probe, mate)) not in taken:
                taken.add(frozenset((probe, mate)))
                drawn.append((probe, mate))
    return drawn


def strangers(persons: np.ndarray, seed: int = 0) -> np.ndarray:
    """For each pair, the index of a random pair of another person; P int64.

    The persons form a random circle, and each gets the pairs of the next person. If all persons have the same number of
    pairs, this is a derangement, in which each pair is used once. Raises ValueError for fewer than two persons.
    """
    rng = np.random.default_rng(seed)
    circle = [np.flatnonzero(persons == person) for person in rng.permutation(np.unique(persons))]
    if len(circle) < 2:
        raise ValueError("one person has no strangers")
    others = np.empty(len(persons), np.int64)
    for own, following in zip(circle, [*circle[1:], circle[0]], strict=True):
        others[own] = np.resize(following, len(own))
    return others


def summary(ranks: np.ndarray, gallery: int, persons: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Table 4's measures of ranks P with 95 % intervals: bootstrap for median and mean, Wilson's for the rates.

    `persons`: the person of each probe, P. The intervals treat persons, not pairs, as independent samples, because the
    pairs of one person resemble each other.
    """
    names, whose = np.unique(persons, return_inverse=True)
    measures: dict[str, Any] = {"probes": len(ranks), "persons": len(names), "gallery": gallery}
    statistics: dict[str, Callable[[np.ndarray], Any]] = {"median_rank": np.median, "mean_rank": np.mean}
    bounds = _bootstrap(ranks, whose, list(statistics.values()), seed)
    for (name, statistic), interval in zip(statistics.items(), bounds, strict=True):
        measures[name] = round(float(statistic(ranks)), 2)
        measures[f"{name}_interval"] = [round(float(bound), 1) for bound in interval]
    for k in (1, 5):
        rate = float((ranks <= k).mean())
        measures[f"rank_{k}"] = round(rate, 4)
        measures[f"rank_{k}_interval"] = [round(bound, 4) for bound in wilson(rate, len(names))]
    return measures


def _bootstrap(
    ranks: np.ndarray, whose: np.ndarray, statistics: Sequence[Callable[[np.ndarray], Any]], seed: int
) -> list[np.ndarray]:
    """The 2.5th and 97.5th percentile of each statistic over random samples of persons, with all their ranks."""
    rng, sizes = np.random.default_rng(seed), np.bincount(whose)
    own = np.full((len(sizes), sizes.max()), -1)  # a row for each person: indices of its ranks, then -1
    own[np.arange(sizes.max()) < sizes[:, None]] = np.argsort(whose, kind="stable")
    found = []
    for _ in range(RESAMPLES):
        drawn = own[rng.integers(len(own), size=len(own))].ravel()
        found.append([statistic(ranks[drawn[drawn >= 0]]) for statistic in statistics])
    return list(np.percentile(found, (2.5, 97.5), axis=0).T)


def wilson(rate: float, number: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate among `number` trials; also valid near 0 and 1."""
    middle, scale = rate + Z**2 / (2 * number), 1 + Z**2 / number
    half = Z * np.sqrt(rate * (1 - rate) / number + Z**2 / (4 * number**2))
    return max(0.0, float((middle - half) / scale)), min(1.0, float((middle + half) / scale))


def by_chance(gallery: int) -> dict[str, Any]:
    """Table 4's measures if every rank is equally likely."""
    expected = (gallery + 1) / 2
    rates = {f"rank_{k}": min(1.0, k / gallery) for k in (1, 5)}
    return {"gallery": gallery, "median_rank": expected, "mean_rank": expected, **rates}


def match_curve(ranks: np.ndarray, upto: np.ndarray) -> np.ndarray:
    """The cumulative match curve: the share of probes whose mate has rank k or better, for each k of `upto`."""
    return np.searchsorted(np.sort(ranks), upto, side="right") / len(ranks)


def table(values: dict[str, dict[str, Any]]) -> str:
    """Measures by name as lines of text, in the form of Table 4, with their intervals."""

    def cell(measures: dict[str, Any], name: str, form: str) -> str:
        low_high = measures.get(f"{name}_interval")
        interval = f" [{low_high[0]:{form}}, {low_high[1]:{form}}]" if low_high else ""
        return f"{measures[name]:{form}}{interval}"

    columns = (("median_rank", ",.1f"), ("mean_rank", ",.1f"), ("rank_1", ".2%"), ("rank_5", ".2%"), ("gallery", ",d"))
    rows = [["", *(name.replace("_", " ") for name, _ in columns)]]
    rows += [[title, *(cell(measures, *column) for column in columns)] for title, measures in values.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
