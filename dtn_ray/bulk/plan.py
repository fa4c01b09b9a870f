"""The work list: a source's listing without the objects that the ledger records as done.

Neither the listing nor the ledger is ever held in memory as a whole. The source is listed in stretches, in parallel.
The task that lists a stretch also reads the ledger's rows of the same keys, and writes the objects that are left to do
to Parquet files, the work list.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial, reduce
from itertools import chain, groupby, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtn_ray import storage
from dtn_ray.bulk.kinds import FAILED
from dtn_ray.bulk.ledger import Part, filled, first_of_each_key, read_range
from dtn_ray.bulk.options import BulkJob
from dtn_ray.bulk.tally import Tally
from dtn_ray.errors import UserError
from dtn_ray.failures import CAUSES
from dtn_ray.images.names import LITTER_NAMES
from dtn_ray.images.repair import CUT_SHORT
from dtn_ray.listing.left_out import LITTER, MATCH, MIN_SIZE, MODIFIED_SINCE, OTHER_SUFFIX, UNSAFE, LeftOut
from dtn_ray.listing.patterns import Pattern
from dtn_ray.parquet import sealed
from dtn_ray.storage.uris import LEADS_OUT

Apply = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

WORK = filled("plan")
FEW_PAGES = 100  # this process lists so many pages faster than it could start others
STRETCHES = 64  # into which the source is divided, at least
SHARES = 256  # most tasks; more would burden the driver
CHUNK = 50_000  # keys that are compared with the ledger at once
SAMPLE = 32


@dataclass
class Plan:
    """The work of one run. The plans of a source's parts add up to the plan of the whole."""

    photos: int = 0
    """Files that are photos by their name."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """Other files, and those that the filters leave out."""
    images: int = 0
    """Images that pass the filters."""
    settled: Tally = field(default_factory=Tally)
    """Counts of the images that need no work, from their rows in the ledger."""
    bytes: int = 0
    """Bytes to read."""
    work: list[tuple[str, int]] = field(default_factory=list)
    """Files of the work list, tables of the schema WORK, and their numbers of rows."""
    sample: list[pa.Table] = field(default_factory=list)
    """A few rows of the work list, from all over the source."""

    @property
    def todo(self) -> int:
        return sum(rows for _, rows in self.work)

    def merge(self, other: "Plan") -> None:
        """Adds another part of the same source."""
        self.photos += other.photos
        self.left_out.merge(other.left_out)
        self.images += other.images
        self.settled.merge(other.settled)
        self.bytes += other.bytes
        self.work += other.work
        self.sample = [*self.sample, *other.sample]
        if len(self.sample) > 2 * SAMPLE:
            self.sample = self.sample[::2]


@dataclass(frozen=True)
class Filters:
    """A job's filters, checked. Raises UserError for an invalid one."""

    pattern: Pattern | None
    min_size: int
    since: datetime | None

    @classmethod
    def of(cls, job: BulkJob) -> "Filters":
        pattern = Pattern("--match", job.match) if job.match else None
        since = None
        if job.modified_since:
            try:
                since = datetime.fromisoformat(job.modified_since)
            except ValueError as error:
                raise UserError(f"--modified-since {job.modified_since}: not a date such as 2026-01-31") from error
            since = since if since.tzinfo else since.replace(tzinfo=UTC)
        return cls(pattern, job.min_size, since)

    def apply(self, photos: pa.Table, left_out: LeftOut) -> pa.Table:
        """The files (a table like storage.LISTING) that pass the filters; the others are counted."""

        def keep(photos: pa.Table, mask: pa.Array | pa.ChunkedArray, reason: str) -> pa.Table:
            left_out.add_keys(reason, photos.filter(pc.call_function("invert", [mask]))["key"])
            return photos.filter(mask)

        if self.pattern:
            photos = keep(photos, self.pattern.found_in(photos["key"]), MATCH)
        # An unknown size or time passes: the object is tried, and may fail with its own reason.
        if self.min_size > 0:
            large = pc.call_function("greater_equal", [photos["size"], pa.scalar(self.min_size, pa.int64())])
            photos = keep(photos, large.fill_null(True), MIN_SIZE)
        if self.since:
            since = pa.scalar(self.since, storage.LISTING.field("modified").type)
            recent = pc.call_function("greater_equal", [photos["modified"], since])
            photos = keep(photos, recent.fill_null(True), MODIFIED_SINCE)
        return photos


def list_source(job: BulkJob, ledger: list[Part], work: str | None, apply: Apply) -> Iterable[Plan]:
    """Lists the source; returns the plans of its parts. `apply` is `map`, or does the same on many machines.

    The work list is written to the folder `work`, or not at all if `work` is None. Raises UserError if the store
    refuses.
    """
    filters = Filters.of(job)
    left_out = LeftOut()
    listed = storage.list_pages(job.source, odd=left_out.add, out=job.out)
    first = list(islice(listed, FEW_PAGES))
    if not storage.is_s3(job.source) or len(first) < FEW_PAGES:
        plan = _sift_pages(job, filters, ledger, work and storage.join(work, "0"), [chain(first, listed)])
        plan.left_out.merge(left_out)
        return [plan]
    found = storage.stretches(job.source, STRETCHES)
    count = min(SHARES, len(found))
    shares = [found[i * len(found) // count : (i + 1) * len(found) // count] for i in range(count)]
    return apply(_scan, [(job, filters, ledger, work, i, share) for i, share in enumerate(shares)])


def _scan(task: tuple[BulkJob, Filters, list[Part], str | None, int, list[storage.Stretch]]) -> Plan:
    """The plan of some stretches of the source."""
    job, filters, ledger, work, i, share = task
    # Whole folders are listed together, as their keys are adjacent; files beside them would span all these ranges.
    runs = groupby(share, lambda stretch: stretch.after is None or stretch)
    pages = (chain.from_iterable(storage.list_pages(job.source, stretch) for stretch in run) for _, run in runs)
    return _sift_pages(job, filters, ledger, work and storage.join(work, f"{i:04}"), pages)


def _sift_pages(
    job: BulkJob, filters: Filters, ledger: list[Part], work: str | None, runs: Iterable[Iterator[pa.Table]]
) -> Plan:
    """The plan of some listings; the pages of each are nearly in the order of keys."""
    plan = Plan()
    for i, files in enumerate(chain.from_iterable(map(_chunks, runs))):
        plan.merge(sift(job, filters, ledger, files, work and f"{work}-{i:05}"))
    return plan


def _chunks(pages: Iterator[pa.Table]) -> Iterator[pa.Table]:
    held, rows = list[pa.Table](), 0
    for page in pages:
        held, rows = [*held, page], rows + len(page)
        if rows >= CHUNK:
            yield pa.concat_tables(held)
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held)


def sift(job: BulkJob, filters: Filters, ledger: list[Part], files: pa.Table, work: str | None) -> Plan:
    """The plan of some files (storage.LISTING, sorted or not); the work list is written to `work`-….parquet."""
    plan = Plan()
    photos = _photos(job, files, plan.left_out)
    images = filters.apply(photos, plan.left_out)
    plan.photos, plan.images = len(photos), len(images)
    if not len(images):
        return plan
    bounds = pc.call_function("min_max", [images["key"]])
    rows = read_range(ledger, bounds["min"].as_py(), bounds["max"].as_py())
    known = rows.take(pc.call_function("index_in", [images["key"]], pc.SetLookupOptions(rows["key"].combine_chunks())))
    mask = _settled(job, known, images)
    plan.settled.add(known.filter(mask), job.kind, seed=zlib.crc32(bounds["min"].as_py().encode()))
    attempts = pc.call_function("add", [known["attempts"].combine_chunks().fill_null(0), pa.scalar(1, pa.int32())])
    todo = images.append_column("attempts", attempts).filter(pc.call_function("invert", [mask])).select(WORK.names)
    plan.bytes = pc.call_function("sum", [todo["size"]]).as_py() or 0
    plan.sample = [todo.take(np.linspace(0, len(todo) - 1, min(SAMPLE, len(todo))).astype(int))] if len(todo) else []
    if len(todo):
        content = sealed.encode(todo.cast(WORK)) if work else b""
        plan.work = [(sealed.name(work, content) if work else "", len(todo))]
        if work:
            storage.write_bytes(plan.work[0][0], content, root=job.out)
    return plan


def _settled(job: BulkJob, known: pa.Table, images: pa.Table) -> pa.ChunkedArray:
    """Whether objects need no work. `known`: their rows in the ledger, of nulls if absent; `images`: as listed."""

    def call(function: str, *arguments: Any) -> Any:
        return pc.call_function(function, list(arguments))

    def equal(one: Any, other: Any) -> Any:
        return call("equal", one, other).fill_null(False)

    same = {name: equal(known[name], images[name]) for name in ("version", "storage_class")}
    done = [call("and", equal(known["status"], status), same["version"]) for status in job.kind.done]
    if job.retry_failed:
        return reduce(partial(call, "or"), done)
    # The version is unknown if the store has no information on an object; the storage class, in most inventories.
    unknown = call("is_null", images["version"])
    same["version"] = call("or", same["version"], call("and", unknown, call("is_null", known["version"])))
    same["storage_class"] = call("or", same["storage_class"], call("is_null", images["storage_class"]))
    failed = equal(known["status"], FAILED)
    if job.truncated == "accept":  # try again what an earlier run refused as truncated
        cut_short = pc.call_function("starts_with", [known["reason"]], pc.MatchSubstringOptions(CUT_SHORT))
        failed = call("and_not", failed, cut_short.fill_null(False))
    left = [
        reduce(partial(call, "and"), [failed, equal(known["cause"], name), *(same[each] for each in cause.while_same)])
        for name, cause in CAUSES.items()
        if cause.while_same
    ]
    return reduce(partial(call, "or"), [*done, *left])


def _photos(job: BulkJob, files: pa.Table, left_out: LeftOut) -> pa.Table:
    """Of some files, those that are photos by their name and lie in IN; the others are counted as left out."""

    def without(files: pa.Table, pattern: str, reason: str) -> pa.Table:
        found = pc.call_function("match_substring_regex", [files["key"]], pc.MatchSubstringOptions(pattern))
        if not pc.call_function("any", [found]).as_py():
            return files
        left_out.add_keys(reason, files.filter(found)["key"])
        return files.filter(pc.call_function("invert", [found]))

    files = without(without(files, LEADS_OUT, UNSAFE), LITTER_NAMES, LITTER)
    suffixes = tuple(suffix.lower() for suffix in job.suffixes)
    named = pa.array([key.lower().endswith(suffixes) for key in files["key"].to_pylist()], pa.bool_())
    left_out.add_keys(OTHER_SUFFIX, files.filter(pc.call_function("invert", [named]))["key"])
    return files.filter(named)


def once(files: pa.Table) -> pa.Table:
    """Each key of some files (storage.LISTING) once, with the latest change: inventories may hold several listings."""
    return first_of_each_key(files.sort_by([("key", "ascending"), ("modified", "descending")]))
