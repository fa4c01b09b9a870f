"""Ray Data: one emoji per person, that which shows its photo best (Eq. 8), of any number of persons.

OUT/<model>/people/images/<person>.png    a copy of the image chosen
OUT/<model>/people/table/*.parquet        columns person, key, output, score, and photos: how many there were
"""

import io
import re
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data
from pyarrow import dataset

from dtn_ray import storage, tables
from dtn_ray.cluster import causes, connect, quiet_ray_data
from dtn_ray.conversion import Conversion
from dtn_ray.errors import UserError
from dtn_ray.images import CONTENT_TYPES
from dtn_ray.keys import output_key, person_of
from dtn_ray.ledger import Ledger, Part, read_range

CHOSEN = pa.schema(
    {"person": pa.string(), "key": pa.string(), "output": pa.string(), "score": pa.float32(), "photos": pa.int64()}
)
NAME = re.compile(r"[0-9a-f]{32}\.parquet")  # of a part of the table
TASK_CPUS = 0.5


Who = Callable[[pa.ChunkedArray], pa.Array]
"""Persons (string) of sorted keys; null for nobody."""


def who(job: Conversion) -> Who:
    """--person or --people, checked. Raises UserError for what cannot be meant."""
    if job.shards != "none":
        raise UserError("--person and --people copy images, which --shards puts together: leave one of the two out")
    if job.person and job.people:
        raise UserError("--person and --people both tell who is who: leave one of the two out")
    if job.people:
        _table(job.people)
        return partial(_by_table, job.people)
    try:
        return partial(_by_pattern, re.compile(job.person))
    except re.error as error:
        raise UserError(f"--person {job.person}: not a regular expression: {error}") from error


def _by_pattern(pattern: re.Pattern[str], keys: pa.ChunkedArray) -> pa.Array:
    return pa.array([person_of(pattern, key) for key in keys.to_pylist()], pa.string())


def _by_table(uri: str, keys: pa.ChunkedArray) -> pa.Array:
    try:
        rows = _near(_table(uri), uri, keys[0].as_py(), keys[-1].as_py())
        found = pc.call_function("index_in", [keys], pc.SetLookupOptions(rows["key"]))
        return rows["person"].cast(pa.string()).take(found)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"--people {uri}: cannot be read: {error}") from error


def _near(table: dataset.Dataset, uri: str, low: str, high: str) -> pa.Table:
    """Rows of a --people table whose keys lie from `low` to `high`; of Parquet, row group by row group."""
    near = (pc.field("key") >= low) & (pc.field("key") <= high)
    if uri.endswith(".csv"):
        return table.to_table(columns=["key", "person"], filter=near)
    filesystem, _ = storage.resolve(uri)
    found = [table.schema.empty_table().select(["key", "person"])]
    for path in table.files:
        with filesystem.open_input_file(path) as stream, tables.damage(f"--people {uri}"):
            file = tables.Table(path, stream)
            for group in range(len(file.rows)):
                if file.may_hold(group, "key", low, high):
                    rows = file.read(group, ["key", "person"]).select(["key", "person"])
                    found.append(rows.cast(found[0].schema).filter(near))
    return pa.concat_tables(found)


def _table(uri: str) -> dataset.Dataset:
    filesystem, path = storage.resolve(uri)
    try:
        table = dataset.dataset(path, filesystem=filesystem, format="csv" if uri.endswith(".csv") else "parquet")
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"--people {uri}: neither a Parquet nor a CSV file that can be read: {error}") from error
    missing = {"key", "person"} - {*table.schema.names}
    if missing:
        names = ", ".join(table.schema.names)
        raise UserError(f"--people {uri}: no column {' and '.join(sorted(missing))}, only {names}")
    keys = pa.field("key", pa.string())
    return table.replace_schema(pa.schema([keys if each.name == "key" else each for each in table.schema]))


def best(photos: pa.Table) -> pa.Table:
    """Eq. 8, argmin ‖f(x) - f(G(x))‖ over a person's photos: of CHOSEN's rows that with the lowest score.

    Of equals, the first by its key; of photos with several faces, the largest face counts.
    """
    chosen = photos.sort_by([("score", "ascending"), ("key", "ascending")]).slice(0, 1)
    place = CHOSEN.names.index("photos")
    return chosen.select(CHOSEN.names).set_column(place, CHOSEN.field("photos"), pa.array([len(photos)], pa.int64()))


def choose(job: Conversion, ledger: Ledger, folder: str) -> dict[str, Any]:
    """Writes the image of each person in a ledger that is compacted; returns how many they are, and where."""
    persons, people, parts = who(job), storage.join(job.out, folder, "people"), ledger.parts()
    table = storage.join(people, "table")
    before = [uri for key in storage.list_keys(table) if _is_ours(uri := storage.join(table, key))]

    def photos(batch: dict[str, Any]) -> pa.Table:
        rows = pa.concat_tables([_photos(part, persons) for part in batch["item"]])
        return rows.append_column(CHOSEN.field("photos"), pa.array([1] * len(rows), pa.int64()))

    def write(chosen: pa.Table) -> pa.Table:
        files = []
        for row in chosen.to_pylist():
            content = storage.read_bytes(storage.join(job.out, row["output"]))
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
    rows = read_range([part]).filter(pc.field("status") == "converted").select(["key", "output", "score"])
    found = persons(rows["key"]) if len(rows) else pa.array([], pa.string())
    return rows.add_column(0, CHOSEN.field("person"), found).filter(pc.field("person").is_valid())
