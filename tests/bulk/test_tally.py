"""What a tally keeps of many rows: the same however they are split, and no more for more rows."""

import pickle
import random

import pyarrow as pa
import pytest

from dtn_ray.bulk.kinds import CONVERTED, Count, Kind, Status
from dtn_ray.bulk.ledger import SCHEMA
from dtn_ray.bulk.tally import EXAMPLES, EXTREMES, REASONS, REASONS_WITH_EXAMPLES, Tally
from dtn_ray.ingest.options import INGESTION

KIND = Kind(
    "test",
    CONVERTED,
    others=(Status("empty", "empty", "empty"),),
    counts=(Count("parts", "pieces", "pieces"), Count("bytes_saved", "saved", "bytes saved")),
)
OWN = pa.schema({"parts": pa.list_(pa.string()), "bytes_saved": pa.int64()})


def made(count: int, seed: int = 0) -> list[dict]:
    chance = random.Random(seed)
    scores = chance.sample(range(count), count)
    return [
        {"key": f"{i:06}.png", "status": "converted", "score": scores[i] / 7, "size": 10, "parts": ["x"] * (i % 3)}
        | {"bytes_saved": 5 if i % 2 else None}
        for i in range(count)
    ]


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, pa.schema([*SCHEMA, *OWN]))


def tallied(rows: list[dict], pieces: int) -> Tally:
    """Of the rows in pieces, each counted elsewhere, in any order."""
    tallies = []
    for i in range(pieces):
        tally = Tally()
        tally.add(table(rows[i::pieces]), KIND, seed=i)
        tallies.append(tally)
    random.Random(pieces).shuffle(tallies)
    whole = Tally()
    for tally in tallies:
        whole.merge(tally)
    return whole


@pytest.mark.parametrize("pieces", [1, 7, 40])
def test_the_best_and_the_worst_are_those_of_the_whole(pieces):
    rows = made(500)
    whole = tallied(rows, pieces)
    by_score = sorted(rows, key=lambda row: row["score"])
    assert [key for _, key, _ in whole.best] == [row["key"] for row in by_score[:EXTREMES]]
    assert [key for _, key, _ in whole.worst] == [row["key"] for row in by_score[::-1][:EXTREMES]]
    assert all(row["key"] == key for _, key, row in [*whole.best, *whole.worst])
    assert whole.statuses == {"converted": 500} and whole.failed == 0
    assert whole.counts == {"pieces": sum(len(row["parts"]) for row in rows), "saved": 1250}


def test_rows_without_a_score_or_with_none_that_counts_are_neither_best_nor_worst():
    rows = made(3)
    rows[0]["score"], rows[1]["score"] = None, float("nan")
    whole = tallied(rows, 2)
    assert [key for _, key, _ in whole.best] == [key for _, key, _ in whole.worst] == ["000002.png"]


def test_equal_scores_are_shown_by_their_keys():
    rows = made(40)
    for row in rows:
        row["score"] = 1.0
    names = [row["key"] for row in rows[:EXTREMES]]
    whole = tallied(rows, 40)
    assert [key for _, key, _ in whole.best] == [key for _, key, _ in whole.worst] == names


def test_a_reason_has_a_bounded_number_of_keys():
    rows = [
        {"key": f"{i}.png", "status": "failed", "cause": "image", "reason": f"{i} bytes, more than the limit of 9"}
        for i in range(1000)
    ]
    whole = tallied(rows, 9)
    reason = ("image", "… bytes, more than the limit of …")
    assert whole.reasons == {reason: 1000} and whole.failed == 1000 and whole.causes == {"image": 1000}
    assert len(whole.examples[reason]) == EXAMPLES
    assert all(
        told == f"{key.removesuffix('.png')} bytes, more than the limit of 9" for key, told in whole.examples[reason]
    )


def failed(count: int, reasons: int) -> list[dict]:
    """Failures by so many reasons, of words of one length, with long keys."""
    words = [f"{i % reasons:04}".translate(str.maketrans("0123456789", "abcdefghij")) for i in range(count)]
    keys = [f"{i:06}/{'k' * 5000}" for i in range(count)]
    return [
        {"key": key, "status": "failed", "cause": "image", "reason": word}
        for key, word in zip(keys, words, strict=True)
    ]


def test_a_tally_does_not_grow_with_the_rows():
    def size(count: int) -> int:
        return len(pickle.dumps(tallied(made(count) + failed(count, 50), 8)))

    assert size(12_000) < 1.02 * size(6_000)


def test_a_tally_does_not_grow_with_the_reasons():
    whole = tallied(failed(6_000, 3_000), 8)
    assert len(whole.reasons) == REASONS and len(whole.examples) == REASONS_WITH_EXAMPLES


def test_statuses_of_another_version_are_counted_as_themselves():
    whole = Tally()
    whole.add(pa.Table.from_pylist([{"key": "a", "status": "quarantined"}, {"key": "b", "status": None}], SCHEMA), KIND)
    assert whole.statuses == {"quarantined": 1, "": 1}


def test_older_rows_without_a_job_s_own_columns_count_as_none():
    whole = Tally()
    whole.add(pa.Table.from_pylist([{"key": "a", "status": "converted"}], SCHEMA), INGESTION)
    assert whole.statuses == {"converted": 1} and not whole.counts["faces"]
