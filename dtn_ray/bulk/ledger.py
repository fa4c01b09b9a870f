"""The ledger of a bulk job: which object was processed, with what outcome. Knows no Ray.

A folder of Parquet files, read by ranges of keys, so that no reader needs to hold it whole. A part holds the rows that
a run has just finished: it is written whole, under a name of its own, after the outputs that it tells of, so that a run
that is killed loses at most the rows of outputs that the next run writes again. Of several rows for one key the newest
holds, so parts may overlap, and reading needs no lock. Compaction turns parts into sets: sorted, and apart from each
other.
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
    """Who fills it: the plan, with the column of this name of storage.LISTING; the pipeline, by `make_row`; the run."""
    added: bool = False
    """Whether ledgers of older versions lack it. Then it stands behind a job's own columns, as it does in files."""


COLUMNS = (
    Column("key", pa.string(), "plan"),  # of the source object, relative to the source
    Column("version", pa.string(), "plan"),  # its ETag, or a local file's size and time of change
    Column("size", pa.int64(), "plan"),  # bytes
    Column("status", pa.string(), "pipeline"),  # of kinds.py: failed, or one of the job's
    Column("cause", pa.string(), "pipeline"),  # of a failure: one of failures.CAUSES, or what another version calls it
    Column("reason", pa.string(), "pipeline"),  # of a failure, in words
    Column("output", pa.string(), "pipeline"),  # relative to OUT; the first of several
    Column("score", pa.float32(), "pipeline"),  # of the first output: the lower, the better; null where there is none
    Column("model", pa.string(), "run"),  # digest of everything that decides the result
    Column("attempts", pa.int32(), "plan"),  # tries of this key by this model, this one included
    Column("time", pa.timestamp("us", "UTC"), "run"),
    Column("storage_class", pa.string(), "plan", added=True),  # as it was listed; null: not known
)


def schema(own: Iterable[pa.Field] = ()) -> pa.Schema:
    """The columns of a ledger, a job's own among them."""

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
    """What a pipeline tells of an object: the columns OUTCOME, and the job's own."""
    return {"status": status, "cause": cause, "reason": reason, "output": output, "score": score, **own}


NAME = re.compile(r"(part|set)-[0-9a-f]+(-[0-9a-f]+)*\.parquet")
ROWS_PER_SET = 500_000
ROWS_PER_GROUP = 25_000  # what a reader of a narrow range reads at least


@dataclass(frozen=True)
class Part:
    """One file of the ledger, and what its footer tells."""

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
    """The ledger in one folder or prefix, of one source and one model."""

    def __init__(self, uri: str, root: str | None = None) -> None:
        """`root`: OUT, below which no link is followed to write or delete; by default the ledger's own folder."""
        self.uri, self.root = uri, root or uri

    def parts(self) -> list[Part]:
        """The files of the ledger; none where there is no ledger yet.

        Raises UserError for one that is damaged or of a newer format, FileNotFoundError for one that a compaction has
        just replaced.
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
            except FileNotFoundError:  # a compaction beside this has just replaced the part: list again
                continue

    def append(self, rows: pa.Table) -> None:
        """Writes rows (all columns but `time`, in any order) as one part. Their outputs must be written by now.

        Columns that are not of SCHEMA are the job's own.
        """
        now = pa.array([round(time.time() * 1e6)] * len(rows), pa.timestamp("us", "UTC"))
        self._write(f"part-{uuid.uuid4().hex}", rows.append_column("time", now).sort_by("key"))

    def compact(self, apply: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map) -> None:
        """Merges the parts, and the sets that they fall among, into new sets without superseded rows.

        `apply` is `map`, or does the same on many machines; each call holds about ROWS_PER_SET rows. The old files are
        deleted once all the new ones are written: whatever a crash, or another writer, leaves behind reads the same.
        """
        parts = list(filter(self._is_ours, self.parts()))
        stale = [part for part in parts if not part.is_set]
        if not stale:
            return
        # Small sets too, or each night would leave one.
        stale += [part for part in parts if part.is_set and part.rows < ROWS_PER_SET // 2]
        low, high = min(part.low for part in stale), max(part.high for part in stale)
        old = [part for part in parts if part.high >= low and part.low <= high]
        if len(old) == 1 and old[0].is_set:
            return
        # Sorts after all that it replaces, so that a long listing meets the one or the other.
        name = f"set-{time.time_ns():020}-{uuid.uuid4().hex}"
        cuts = _cuts(old)
        jobs = [
            (old, *bounds, f"{name}-{i:05}") for i, bounds in enumerate(zip(["", *cuts], [*cuts, None], strict=True))
        ]
        list(apply(self._merge, jobs))
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda part: storage.delete(part.uri, root=self.root), old))

    def _is_ours(self, part: Part) -> bool:
        """Whether a part has its name by `append` or `compact`; others, such as copies, are read and left alone."""
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
    """The newest row for each key from `low` up to and with `high` (without it, where not `inclusive`), sorted by key.

    Columns are those of SCHEMA and a job's own, as the files have them; nulls where only other files have one. Reads
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
    """Rows with the columns of SCHEMA, and their own; nulls in added columns that they lack."""
    wanted = schema(field for field in rows.schema if field.name not in SCHEMA.names)
    for column in COLUMNS:
        if column.added and column.name not in rows.column_names:
            rows = rows.append_column(column.name, pa.nulls(len(rows), column.type))
    return rows.select(wanted.names).cast(wanted)


def newest(rows: pa.Table) -> pa.Table:
    """Of each key the row of most attempts; among those, as clocks differ between machines, the latest."""
    return first_of_each_key(rows.sort_by([("key", "ascending"), ("attempts", "descending"), ("time", "descending")]))


def first_of_each_key(rows: pa.Table) -> pa.Table:
    """Of rows sorted by key, the first with each."""
    rows = rows.combine_chunks()
    if len(rows) < 2:
        return rows
    other = pc.call_function("not_equal", [rows["key"][1:], rows["key"][:-1]])
    return rows.filter(pa.chunked_array([pa.array([True]), *other.chunks]))


def _cuts(parts: Sequence[Part]) -> list[str]:
    """Keys that cut the rows of some files into ranges of about ROWS_PER_SET rows or, evenly, less."""
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
            elif rows:  # Parquet keeps no statistics of keys of more than 4 KB, as in very deep folders
                bounds = pc.call_function("min_max", [file.read(i, ["key"])["key"]])
                groups.append((bounds["min"].as_py(), bounds["max"].as_py(), rows))
        return Part(uri, tuple(groups))


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[tables.Table]:
    """A part; what cannot be read in it is a UserError, FileNotFoundError where it is absent."""
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
