"""Ray Data: chooses one emoji per person, the one that shows its photo best (Eq. 8), for any number of persons.

OUT/<model>/people/images/<person>.png    a copy of the chosen image
OUT/<model>/people/table/*.parquet        columns person, key, output, score, and photos: their number
"""

import io
import re
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data
from pyarrow import dataset

from dtn_ray import storage
from dtn_ray.bulk.keys import output_key
from dtn_ray.bulk.kinds import CONVERTED
from dtn_ray.bulk.ledger import Ledger, Part, read_range
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.images.names import CONTENT_TYPES
from dtn_ray.listing.patterns import Pattern
from dtn_ray.parquet import tables
from dtn_ray.ray_cluster.connect import causes, connect, quiet_ray_data

CHOSEN = pa.schema(
    {"person": pa.string(), "key": pa.string(), "output": pa.string(), "score": pa.float32(), "photos": pa.int64()}
)
NAME = re.compile(r"[0-9a-f]{32}\.parquet")  # of a part of the table
PEOPLE = pa.schema({"key": pa.string(), "person": pa.string()})
ROWS_AT_ONCE = 500  # of --people; values may have any length until they are checked
LONGEST = 1 << 16  # bytes of a key or a person
TASK_CPUS = 0.5
FOLDERS = ("people", "people/images", "people/table")  # below that of the results


Who = Callable[[pa.ChunkedArray], pa.Array]
"""Maps sorted keys to persons (string); null if there is no person."""


def who(job: Conversion) -> Who:
    """The function for --person or --people. Raises UserError for invalid options."""
    if job.shards != "none":
        raise UserError("--person and --people copy single image files, and --shards writes none: use only one of them")
    if job.person and job.people:
        raise UserError("--person and --people both name the person of each photo: use only one of them")
    if job.people:
        _table(job.people)
        return partial(_by_table, job.people)
    return partial(_by_pattern, Pattern("--person", job.person))


def _by_pattern(pattern: Pattern, keys: pa.ChunkedArray) -> pa.Array:
    return pa.array([pattern.person(key) for key in keys.to_pylist()], pa.string())


def _by_table(uri: str, keys: pa.ChunkedArray) -> pa.Array:
    try:
        near = _near(_table(uri), uri, keys[0].as_py(), keys[-1].as_py())
        rows = pa.Table.from_batches([_wanted(uri, batch, keys) for batch in near], PEOPLE)
        found = pc.call_function("index_in", [keys], pc.SetLookupOptions(rows["key"].combine_chunks()))
        return rows["person"].combine_chunks().take(found.combine_chunks())
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"--people {uri}: cannot be read: {error}") from error


def _near(table: dataset.Dataset, uri: str, low: str, high: str) -> Iterator[pa.RecordBatch]:
    """Parts of a --people table that contain at least the rows with keys from `low` to `high`."""
    if uri.endswith(".csv"):
        near = (pc.field("key") >= low) & (pc.field("key") <= high)
        # One batch at a time; reading ahead would hold many batches in memory.
        options: Any = {"batch_size": ROWS_AT_ONCE, "use_threads": False, "batch_readahead": 1, "fragment_readahead": 1}
        yield from table.scanner(columns=PEOPLE.names, filter=near, **options).to_batches()
        return
    filesystem, _ = storage.resolve(uri)
    for path in table.files:
        with filesystem.open_input_file(path) as stream, tables.damage(f"--people {uri}"):
            file = tables.Table(path, stream)
            for group in range(len(file.rows)):
                if file.may_hold(group, "key", low, high):
                    yield from file.batches(group, PEOPLE.names, ROWS_AT_ONCE)


def _wanted(uri: str, batch: pa.RecordBatch, keys: pa.ChunkedArray) -> pa.RecordBatch:
    """The rows of some keys, of the schema PEOPLE."""
    columns = list[pa.Array]()
    for name in PEOPLE.names:
        column = batch[name]
        values = column.dictionary if pa.types.is_dictionary(column.type) else column.cast(pa.string())
        longest = pc.call_function("max", [pc.call_function("binary_length", [values])]).as_py() or 0
        if longest > LONGEST:
            raise UserError(f"--people {uri}: a {name} of {longest} bytes; at most {LONGEST} are allowed")
        columns.append(column.cast(pa.string()))
    found = pc.call_function("is_in", [columns[0]], pc.SetLookupOptions(keys.combine_chunks()))
    return pa.RecordBatch.from_arrays(columns, schema=PEOPLE).filter(found)


def _table(uri: str) -> dataset.Dataset:
    filesystem, path = storage.resolve(uri)
    # As a dictionary, a long value that many rows share is held only once.
    read = dataset.ParquetReadOptions(dictionary_columns={*PEOPLE.names})
    format: Any = "csv" if uri.endswith(".csv") else dataset.ParquetFileFormat(read_options=read)
    try:
        table = dataset.dataset(path, filesystem=filesystem, format=format)
        there = table.schema.names
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise UserError(f"--people {uri}: neither a Parquet nor a CSV file that can be read: {error}") from error
    missing = {*PEOPLE.names} - {*there}
    if missing:
        raise UserError(f"--people {uri}: no column {' and '.join(sorted(missing))}, only {', '.join(there)}")
    if pa.types.is_dictionary(table.schema.field("key").type):
        return table
    keys = pa.field("key", pa.string())
    return table.replace_schema(pa.schema([keys if each.name == "key" else each for each in table.schema]))


def best(photos: pa.Table) -> pa.Table:
    """Eq. 8, argmin ‖f(x) - f(G(x))‖ over a person's photos: of rows like CHOSEN, the one with the lowest score.

    Among equal scores the first key is chosen. For photos with several faces the score is that of the largest face.
    """
    chosen = photos.sort_by([("score", "ascending"), ("key", "ascending")]).slice(0, 1)
    place = CHOSEN.names.index("photos")
    return chosen.select(CHOSEN.names).set_column(place, CHOSEN.field("photos"), pa.array([len(photos)], pa.int64()))


def choose(job: Conversion, ledger: Ledger, folder: str) -> dict[str, Any]:
    """Writes one image for each person in a compacted ledger; returns the number of persons and the folder."""
    persons, people, parts = who(job), storage.join(job.out, folder, "people"), ledger.parts()
    table = storage.join(people, "table")
    before = [uri for key in storage.list_keys(table) if _is_ours(uri := storage.join(table, key))]

    def photos(batch: dict[str, Any]) -> pa.Table:
        rows = pa.concat_tables([_photos(part, persons) for part in batch["item"]])
        return rows.append_column(CHOSEN.field("photos"), pa.array([1] * len(rows), pa.int64()))

    def write(chosen: pa.Table) -> pa.Table:
        files = []
        for row in chosen.to_pylist():
            output = storage.join(job.out, row["output"] or "")
            try:
                content = storage.read_bytes(output)
            except OSError as why:
                raise UserError(f"{output}: the ledger names this image, but it cannot be read: {why}") from why
            uri = storage.join(people, "images", output_key(row["person"], job.format))
            files.append(storage.NewFile(uri, content, CONTENT_TYPES[job.format], root=job.out))
        for error in storage.write_many(files):
            if error:
                raise UserError(f"cannot be written: {error}")
        if len(chosen):
            buffer = io.BytesIO()
            pq.write_table(chosen, buffer)
            uri = storage.join(table, f"{uuid.uuid4().hex}.parquet")
            storage.write_bytes(uri, buffer.getvalue(), root=job.out)
        return pa.table({"people": [len(chosen)]})

    count = 0
    if parts:
        connect()
        quiet_ray_data()
        converted = ray.data.from_items([{"item": part} for part in parts], override_num_blocks=len(parts))
        found = converted.map_batches(photos, batch_size=1, num_cpus=TASK_CPUS)  # type: ignore[arg-type]
        each = found.groupby("person", num_partitions=len(parts))
        chosen = each.map_groups(best, batch_format="pyarrow", num_cpus=TASK_CPUS)
        with causes():
            written = chosen.map_batches(write, batch_size=1000, batch_format="pyarrow", num_cpus=TASK_CPUS)
            count = sum(row["people"] for row in written.iter_rows())
    for uri in before:  # of an earlier run
        storage.delete(uri, root=job.out)
    return {"people": count, "people_folder": people}


def _is_ours(uri: str) -> bool:
    """Whether a file is a part of the table, as `choose` writes it."""
    if not NAME.fullmatch(uri.rpartition("/")[2]):
        return False
    filesystem, path = storage.resolve(uri)
    try:
        return pq.read_schema(path, filesystem=filesystem).names == CHOSEN.names
    except (OSError, pa.ArrowException):
        return False


def _photos(part: Part, persons: Who) -> pa.Table:
    rows = read_range([part]).filter(pc.field("status") == CONVERTED.name).select(["key", "output", "score"])
    found = persons(rows["key"]) if len(rows) else pa.array([], pa.string())
    return rows.add_column(0, CHOSEN.field("person"), found).filter(pc.field("person").is_valid())
