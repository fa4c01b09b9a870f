"""The ledger of a bulk job: which object was processed, with what outcome. Does not import Ray.

A folder of Parquet files that is read by ranges of keys, so that no reader needs to hold all of it. A *part* holds the
rows that a run has just finished. It is written atomically, under a unique name, after the outputs of its rows, so that
a killed run loses at most rows whose outputs the next run writes again. Of several rows for one key the newest counts,
so parts may overlap, and reading needs no lock. Compaction merges parts into *sets*, which are sorted and do not
overlap.
"""

import contextlib
import re
import time
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.parquet import sealed, tables

FORMAT = 2  # 1 had no column faces


@dataclass(frozen=True)
class Column:
    """A column that the ledger of every bulk job has. A job's own columns are `columns` of its Pipeline."""

    name: str
    type: pa.DataType
    by: Literal["plan", "pipeline", "run"]
    """Who fills it: the plan, from the column of this name of storage.LISTING; the pipeline, by `make_row`; or the
    run."""
    added: bool = False
    """Whether ledgers of older versions lack it. Such a column comes after a job's own columns, as it does in files."""


COLUMNS = (
    Column("key", pa.string(), "plan"),  # of the source object, relative to the source
    Column("version", pa.string(), "plan"),  # its ETag, or a local file's size and time of change
    Column("size", pa.int64(), "plan"),  # bytes
    Column("status", pa.string(), "pipeline"),  # see kinds.py: failed, or one of the job's
    Column("cause", pa.string(), "pipeline"),  # of a failure: one of failures.CAUSES, or another version's name
    Column("reason", pa.string(), "pipeline"),  # of a failure, in words
    Column("output", pa.string(), "pipeline"),  # relative to OUT; the first of several
    Column("score", pa.float32(), "pipeline"),  # of the first output, lower is better; null for jobs without scores
    Column("model", pa.string(), "run"),  # digest of everything that decides the result
    Column("attempts", pa.int32(), "plan"),  # tries of this key by this model, this one included
    Column("time", pa.timestamp("us", "UTC"), "run"),
    Column("storage_class", pa.string(), "plan", added=True),  # from the listing; null: unknown
)


def schema(own: Iterable[pa.Field] = ()) -> pa.Schema:
    """The columns of a ledger, including a job's own."""

    def fields(added: bool) -> list[pa.Field]:
        return [pa.field(column.name, column.type) for column in COLUMNS if column.added == added]

    return pa.schema([*fields(False), *own, *fields(True)], metadata={"ledger_format": str(FORMAT)})


def filled(by: str) -> pa.Schema:
    """The columns that the plan, the pipeline or the run fills."""
    return pa.schema([pa.field(column.name, column.type) for column in COLUMNS if column.by == by])


SCHEMA = schema()
OUTCOME = filled("pipeline")
Row = dict[str, Any]


def make_row(
    status: str,
    *,
    cause: str | None = None,
    reason: str | None = None,
    output: str | None = None,
    score: float | None = None,
    **own: Any,
) -> Row:
    """The outcome of an object, from a pipeline: the columns OUTCOME, and the job's own."""
    return {"status": status, "cause": cause, "reason": reason, "output": output, "score": score, **own}


NAME = re.compile(r"(part|set)-[0-9a-f]+(-[0-9a-f]+)*\.parquet")
ROWS_PER_SET = 500_000
ROWS_PER_GROUP = 25_000  # the least that is read for a narrow range of keys


@dataclass(frozen=True)
class Part:
    """One file of the ledger, with the ranges of keys in its footer."""

    uri: str
    groups: tuple[tuple[str, str, int], ...]
    """First key, last key and number of rows of each row group."""

    @property
    def low(self) -> str:
        return min(low for low, _, _ in self.groups)

    @property
    def high(self) -> str:
        return max(high for _, high, _ in self.groups)

    @property
    def rows(self) -> int:
        return sum(rows for _, _, rows in self.groups)

    @property
    def is_set(self) -> bool:
        return self.name.startswith("set-")

    @property
    def name(self) -> str:
        return self.uri.rpartition("/")[2]


class Ledger:
    """The ledger in one folder or prefix, for one source and one model."""

    def __init__(self, uri: str, root: str | None = None) -> None:
        """`root`: OUT; below it, nothing is written or deleted through links. By default the ledger's folder."""
        self.uri, self.root = uri, root or uri

    def parts(self) -> list[Part]:
        """The files of the ledger; an empty list if there is no ledger yet.

        Raises UserError for a file that is damaged or of a newer format, FileNotFoundError for one that a compaction
        has just replaced.
        """
        keys = [key for key in storage.list_keys(self.uri) if key.endswith(".parquet")]
        with ThreadPoolExecutor(16) as pool:
            parts = list(pool.map(lambda key: _open(storage.join(self.uri, key)), keys))
        return [part for part in parts if part.groups]

    def read(self) -> pa.Table:
        """The newest row for each key, sorted by key: for ledgers that fit into memory. Errors as for `parts`."""
        while True:
            try:
                return read_range(self.parts())
            except FileNotFoundError:  # a concurrent compaction has just replaced the part: list again
                continue

    def append(self, rows: pa.Table) -> None:
        """Writes rows (all columns except `time`, in any order) as one part. Their outputs must already be written.

        Columns that are not in SCHEMA are the job's own.
        """
        now = pa.array([round(time.time() * 1e6)] * len(rows), pa.timestamp("us", "UTC"))
        self._write(f"part-{uuid.uuid4().hex}", rows.append_column("time", now).sort_by("key"))

    def compact(self, apply: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map) -> None:
        """Merges the parts, and the sets that overlap with them, into new sets without superseded rows.

        `apply` is `map`, or does the same on many machines; each call holds about ROWS_PER_SET rows. The old files are
        deleted once all new files are written, so that readers see the same rows at any moment, even after a crash.
        """
        parts = list(filter(self._is_ours, self.parts()))
        stale = [part for part in parts if not part.is_set]
        if not stale:
            return
        # Merge small sets too; otherwise each night would add one.
        stale += [part for part in parts if part.is_set and part.rows < ROWS_PER_SET // 2]
        low, high = min(part.low for part in stale), max(part.high for part in stale)
        old = [part for part in parts if part.high >= low and part.low <= high]
        if len(old) == 1 and old[0].is_set:
            return
        # The name sorts after those of the replaced files, so that a slow listing sees the old or the new files.
        name = f"set-{time.time_ns():020}-{uuid.uuid4().hex}"
        cuts = _cuts(old)
        jobs = [
            (old, *bounds, f"{name}-{i:05}") for i, bounds in enumerate(zip(["", *cuts], [*cuts, None], strict=True))
        ]
        list(apply(self._merge, jobs))
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda part: storage.delete(part.uri, root=self.root), old))

    def _is_ours(self, part: Part) -> bool:
        """Whether `append` or `compact` gave a part its name; other files, such as copies, are only read."""
        return part.uri == storage.join(self.uri, part.name) and NAME.fullmatch(part.name) is not None

    def _merge(self, job: tuple[Sequence[Part], str, str | None, str]) -> None:
        parts, low, below, name = job
        rows = read_range(parts, low, below, inclusive=False)
        if len(rows):
            self._write(name, rows)

    def _write(self, stem: str, rows: pa.Table) -> None:
        content = sealed.encode(_complete(rows), ROWS_PER_GROUP)
        storage.write_bytes(storage.join(self.uri, sealed.name(stem, content)), content, root=self.root)


def read_range(parts: Iterable[Part], low: str = "", high: str | None = None, *, inclusive: bool = True) -> pa.Table:
    """The newest row for each key from `low` to `high` (including `high` only if `inclusive`), sorted by key.

    Columns are those of SCHEMA and the job's own columns in the files; null for rows of files that lack a column. Reads
    only the row groups that may hold such keys. Raises as `Ledger.parts` does.
    """

    def wanted(first: str, last: str) -> bool:
        return last >= low and (high is None or first < high or (inclusive and first == high))

    def read(part: Part) -> pa.Table:
        groups = [i for i, (first, last, _) in enumerate(part.groups) if wanted(first, last)]
        with _opened(part.uri) as file:
            return _complete(pa.concat_tables([file.read(i) for i in groups]))

    parts = list(parts)
    with ThreadPoolExecutor(16) as pool:
        tables = pool.map(read, [part for part in parts if wanted(part.low, part.high)])
        try:
            rows = pa.concat_tables([SCHEMA.empty_table(), *tables], promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            folders = {part.uri.rpartition("/")[0] for part in parts}
            raise UserError(
                f"{', '.join(sorted(folders))}: files of this ledger have a column of the same name but of different "
                f"types ({' '.join(str(error).split())}): another version of dtn-ray wrote some. Choose another OUT"
            ) from error
    inside = pc.field("key") >= low
    if high is not None:
        inside &= (pc.field("key") <= high) if inclusive else (pc.field("key") < high)
    return newest(rows.filter(inside))


def _complete(rows: pa.Table) -> pa.Table:
    """Rows with all columns of SCHEMA and their own; added columns that they lack are null."""
    wanted = schema(field for field in rows.schema if field.name not in SCHEMA.names)
    for column in COLUMNS:
        if column.added and column.name not in rows.column_names:
            rows = rows.append_column(column.name, pa.nulls(len(rows), column.type))
    return rows.select(wanted.names).cast(wanted)


def newest(rows: pa.Table) -> pa.Table:
    """For each key the row with the most attempts (clocks differ between machines); among equals the latest."""
    return first_of_each_key(rows.sort_by([("key", "ascending"), ("attempts", "descending"), ("time", "descending")]))


def first_of_each_key(rows: pa.Table) -> pa.Table:
    """Of rows sorted by key, the first row of each key."""
    rows = rows.combine_chunks()
    if len(rows) < 2:
        return rows
    other = pc.call_function("not_equal", [rows["key"][1:], rows["key"][:-1]])
    return rows.filter(pa.chunked_array([pa.array([True]), *other.chunks]))


def _cuts(parts: Sequence[Part]) -> list[str]:
    """Keys that divide the rows of some files into equal ranges of at most about ROWS_PER_SET rows."""
    groups = sorted(group for part in parts for group in part.groups)
    total = sum(rows for _, _, rows in groups)
    count = -(-total // ROWS_PER_SET)
    before, starts = 0, list[int]()
    for _, _, rows in groups:
        starts.append(before)
        before += rows
    wanted = [groups[bisect_right(starts, total * i // count) - 1][0] for i in range(1, count)]
    return sorted(set(wanted))


def _open(uri: str) -> Part:
    with _opened(uri) as file:
        footer = file.metadata
        written = int((footer.metadata or {})[b"ledger_format"])
        if written > FORMAT:
            raise UserError(
                f"{uri}: the ledger has format {written}, but this version of dtn-ray reads formats up to {FORMAT}: "
                "update dtn-ray, or choose another OUT"
            )
        key = footer.schema.names.index("key")
        groups = []
        for i in range(footer.num_row_groups):
            found, rows = footer.row_group(i).column(key).statistics, footer.row_group(i).num_rows
            if rows and found and found.has_min_max:
                groups.append((found.min, found.max, rows))
            elif rows:  # Parquet has no statistics for keys of more than 4 KB, as in very deep folders
                bounds = pc.call_function("min_max", [file.read(i, ["key"])["key"]])
                groups.append((bounds["min"].as_py(), bounds["max"].as_py(), rows))
        return Part(uri, tuple(groups))


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[tables.Table]:
    """Opens a part. Raises UserError, in the `with` too, if it is damaged, and FileNotFoundError if it is absent."""
    filesystem, path = storage.resolve(uri)
    try:
        with filesystem.open_input_file(path) as stream:
            file = tables.Table(uri, stream)
            sealed.check(file.source, uri)
            yield file
    except FileNotFoundError:
        raise
    except (*tables.DAMAGE, AttributeError) as error:
        if isinstance(error, UserError) and not isinstance(error, tables.Damaged):
            raise
        reason = " ".join(str(error).split())
        if not NAME.fullmatch(uri.rpartition("/")[2]):
            raise UserError(
                f"{uri}: this file cannot be read as a part of the ledger ({reason}), and its name is not that of one: "
                "move it elsewhere"
            ) from error
        raise UserError(
            f"{uri}: this part of the ledger cannot be read ({reason}). If the store works and the file is damaged, "
            "delete it: the next run processes the objects that it recorded again."
        ) from error
