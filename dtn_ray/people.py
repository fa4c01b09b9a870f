"""Ray Data: one emoji per person, that which shows its photo best (Eq. 8), of any number of persons.

OUT/<model>/people/images/<person>.png    a copy of the image chosen
OUT/<model>/people/table/*.parquet        columns person, key, output, score, and photos: how many there were
"""

import io
import re
import uuid
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from dtn_ray import storage
from dtn_ray.cluster import causes, connect, quiet_ray_data
from dtn_ray.conversion import Conversion
from dtn_ray.errors import UserError
from dtn_ray.images import CONTENT_TYPES
from dtn_ray.keys import output_key, person_of
from dtn_ray.ledger import Ledger, Part, read_range

CHOSEN = pa.schema(
    {"person": pa.string(), "key": pa.string(), "output": pa.string(), "score": pa.float32(), "photos": pa.int64()}
)
TASK_CPUS = 0.5


def pattern_of(job: Conversion) -> re.Pattern[str]:
    """--person, checked. Raises UserError for one that cannot be meant."""
    if job.shards != "none":
        raise UserError("--person copies images, which --shards puts together: leave one of the two out")
    try:
        return re.compile(job.person)
    except re.error as error:
        raise UserError(f"--person {job.person}: not a regular expression: {error}") from error


def best(photos: pa.Table) -> pa.Table:
    """Eq. 8, argmin ‖f(x) - f(G(x))‖ over a person's photos: of CHOSEN's rows that with the lowest score.

    Of equals, the first by its key; of photos with several faces, the largest face counts.
    """
    chosen = photos.sort_by([("score", "ascending"), ("key", "ascending")]).slice(0, 1)
    place = CHOSEN.names.index("photos")
    return chosen.select(CHOSEN.names).set_column(place, CHOSEN.field("photos"), pa.array([len(photos)], pa.int64()))


def choose(job: Conversion, ledger: Ledger, folder: str) -> dict[str, Any]:
    """Writes the image of each person in a ledger that is compacted; returns how many they are, and where."""
    pattern, people, parts = pattern_of(job), storage.join(job.out, folder, "people"), ledger.parts()
    table = storage.join(people, "table")
    for key in storage.list_keys(table):  # of an earlier run
        storage.delete(storage.join(table, key))

    def photos(batch: dict[str, Any]) -> pa.Table:
        rows = pa.concat_tables([_photos(part, pattern) for part in batch["item"]])
        return rows.append_column(CHOSEN.field("photos"), pa.array([1] * len(rows), pa.int64()))

    def write(chosen: pa.Table) -> pa.Table:
        files = []
        for row in chosen.to_pylist():
            content = storage.read_bytes(storage.join(job.out, row["output"]))
            uri = storage.join(people, "images", output_key(row["person"], job.format))
            files.append(storage.NewFile(uri, content, CONTENT_TYPES[job.format]))
        for error in storage.write_many(files):
            if error:
                raise error
        if len(chosen):
            buffer = io.BytesIO()
            pq.write_table(chosen, buffer)
            storage.write_bytes(storage.join(table, f"{uuid.uuid4().hex}.parquet"), buffer.getvalue())
        return pa.table({"people": [len(chosen)]})

    count = 0
    if parts:
        connect()
        quiet_ray_data()
        converted = ray.data.from_items([{"item": part} for part in parts], override_num_blocks=len(parts))
        each = converted.map_batches(photos, batch_size=1, num_cpus=TASK_CPUS).groupby("person")  # type: ignore[arg-type]
        chosen = each.map_groups(best, batch_format="pyarrow", num_cpus=TASK_CPUS)
        with causes():
            written = chosen.map_batches(write, batch_size=1000, batch_format="pyarrow", num_cpus=TASK_CPUS)
            count = sum(row["people"] for row in written.iter_rows())
    return {"people": count, "people_folder": people}


def _photos(part: Part, pattern: re.Pattern[str]) -> pa.Table:
    rows = read_range([part]).filter(pc.field("status") == "converted").select(["key", "output", "score"])
    persons = pa.array([person_of(pattern, key) for key in rows["key"].to_pylist()], pa.string())
    return rows.add_column(0, CHOSEN.field("person"), persons).filter(pc.field("person").is_valid())
