"""The statuses, counts and labels of a kind of bulk job. Standard library only, because options import this module."""

from dataclasses import dataclass

FAILED = "failed"
"""The status of every object that failed, whatever the job; its cause is one of failures.CAUSES."""


@dataclass(frozen=True)
class Status:
    """An outcome of an object other than FAILED. An object with such a status is not processed again until it
    changes."""

    name: str
    """In the ledger, and in the metric dtn_images."""
    count: str
    """In summary.json, last-run.json and the metric dtn_ledger_images: how many objects have it."""
    label: str
    """In the report."""


@dataclass(frozen=True)
class Count:
    """A total over a job's own column of the ledger: the number of elements of a list column, or the sum of numbers."""

    column: str
    name: str
    """In summary.json and last-run.json."""
    label: str
    """In the report."""


@dataclass(frozen=True)
class Score:
    """The meaning of the ledger's column score for a job; lower is better."""

    title: str
    meaning: str
    """One sentence for the report."""


@dataclass(frozen=True)
class Kind:
    """A kind of bulk job."""

    name: str
    """In metrics, last-run.json and webhook messages: conversion, ingestion, …"""
    made: Status
    """The status of an object that became a result."""
    others: tuple[Status, ...] = ()
    """Further statuses, of objects that were processed without a result."""
    counts: tuple[Count, ...] = ()
    score: Score | None = None
    """None: the job has no scores."""
    todo: str = "to_do"
    """The name, in the result of a dry run, of the number of objects that a run would process."""

    @property
    def done(self) -> tuple[str, ...]:
        """The statuses, as in the ledger, of objects that are not processed again until they change."""
        return self.made.name, *(status.name for status in self.others)

    @property
    def told(self) -> tuple[str, ...]:
        """The names of the counts in last-run.json, in order."""
        others, counts = (status.count for status in self.others), (count.name for count in self.counts)
        return "images", "done_before", self.made.count, *others, *counts, "failed", "remaining"


CONVERTED = Status("converted", "converted", "converted")
