"""Parquet and ORC files from others, as batches of bounded size. Does not import Ray.

A small file can unpack to any size: the libraries read a page, a dictionary or a stripe whole before anyone can check
it, and damage may crash the process that reads it. So another process reads the file, limited to MEMORY by the
operating system; if it crashes, the error here is one line.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import dataset

import dtn_ray
from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.listing.list_columns import places
from dtn_ray.text.display import name as shown

ROWS = 20_000  # most rows of a batch …
BYTES = 1 << 24  # … and most bytes of text in it
LONGEST = 1 << 16  # bytes of a value
MEMORY = 800 << 20  # bytes for the file, beside Python and the libraries
OVERLONG = "overlong"
"""An added column: the length of a value that is too long (the value itself is then null), or null."""
# Each thread takes memory, so their number must not depend on the machine.
FEW_THREADS = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKIO_WORKER_THREADS": "1",
}


def read(uri: str, format: str) -> Iterator[pa.RecordBatch]:
    """Batches of the columns of a file (`format`: parquet or orc) that list_columns.py knows, under its names.

    Text comes as large_binary. Raises UserError naming the file if it is damaged, has no column `key`, nested values
    in a column that is known, or needs more than MEMORY.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(dtn_ray.__file__)))
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-m", "dtn_ray.listing.list_tables", uri, format]
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            env=os.environ | FEW_THREADS | {"PYTHONPATH": path},
        )
        try:
            assert process.stdout
            try:
                with pa.ipc.open_stream(process.stdout) as batches:
                    yield from batches
            except (pa.ArrowInvalid, OSError) as error:
                process.stdout.close()
                raise _ended(uri, process.wait(), words) from error
            process.stdout.close()
            if code := process.wait():
                raise _ended(uri, code, words)
        finally:
            process.kill()
            process.wait()


def _ended(uri: str, code: int, words: Any) -> UserError:
    words.seek(0, os.SEEK_END)
    words.seek(max(0, words.tell() - 8192))
    lines = words.read().decode(errors="replace").strip().splitlines()
    told = lines[-1] if lines else ""
    if code == 2:
        return UserError(told)
    reason = f"damaged, or more than {MEMORY >> 20} MiB are needed to read it"
    return UserError(f"--inventory {uri}: cannot be read: {reason}{f' ({shown(told)})' if told else ''}")


def _batches(uri: str, format: str) -> Iterator[pa.RecordBatch]:
    filesystem, path = storage.resolve(uri)
    if format == "orc":
        found = dataset.dataset(path, filesystem=filesystem, format="orc")
        columns = _columns(uri, found.schema)
        # One batch at a time; reading ahead would hold more in memory.
        batches: Any = found.scanner(
            columns=list(columns), batch_size=ROWS, use_threads=False, batch_readahead=0, fragment_readahead=0
        ).to_batches()
    else:
        with filesystem.open_input_file(path) as stream:
            schema = pq.read_schema(stream)
        columns = _columns(uri, schema)
        text = [name for name in columns if _is_text(schema.field(name).type)]
        options: Any = {"read_dictionary": text, "pre_buffer": False, "buffer_size": 1 << 20}
        file = pq.ParquetFile(filesystem.open_input_file(path), **options)
        batches = file.iter_batches(ROWS, columns=list(columns), use_threads=False)
    for batch in batches:
        yield from _bounded(batch.select(list(columns)).rename_columns(list(columns.values())))


def _columns(uri: str, schema: pa.Schema) -> dict[str, str]:
    """The wanted columns and their new names. Raises UserError for invalid ones."""
    columns = {schema.names[i]: name for name, i in places(schema.names).items()}
    for field in map(schema.field, [schema.names.index(name) for name in columns]):
        if schema.names.count(field.name) > 1:
            raise UserError(f"--inventory {uri}: two columns are called {shown(field.name)}")
        if pa.types.is_nested(field.type) or pa.types.is_null(field.type):
            raise UserError(f"--inventory {uri}: its column {shown(field.name)} holds {shown(str(field.type))}")
    if "key" not in columns.values():
        raise UserError(f"--inventory {uri}: no column key, only {shown(', '.join(schema.names))}")
    return columns


def _is_text(type: pa.DataType) -> bool:
    types = pa.types
    is_view = types.is_string_view(type) or types.is_binary_view(type)
    return types.is_string(type) or types.is_large_string(type) or is_view or _is_binary(type)


def _is_binary(type: pa.DataType) -> bool:
    return pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_fixed_size_binary(type)


def _bounded(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Divides a batch into pieces of about BYTES of text, and removes values that are too long."""
    total, longest = np.zeros(len(batch), np.int64), np.zeros(len(batch), np.int64)
    columns = dict[str, pa.Array]()
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        values = column.dictionary if pa.types.is_dictionary(column.type) else column
        if _is_text(values.type):
            values = _binary(values)
            lengths = pc.call_function("binary_length", [values])
            if pa.types.is_dictionary(column.type):
                lengths = lengths.take(column.indices)
            column = _without(values, column.indices if pa.types.is_dictionary(column.type) else None)
            found = np.asarray(lengths.fill_null(0)).astype(np.int64)
            longest = np.maximum(longest, found)
            total += np.where(found > LONGEST, 0, found)
        columns[name] = column
    columns[OVERLONG] = pa.array(longest, pa.int64(), mask=longest <= LONGEST)
    starts = [0, *(np.flatnonzero(np.diff(np.cumsum(total) // BYTES)) + 1).tolist(), len(batch)]
    for start, stop in pairwise(starts):
        pieces = {name: column.slice(start, stop - start) for name, column in columns.items()}
        yield pa.RecordBatch.from_pydict({name: _plain(piece) for name, piece in pieces.items()})


def _binary(values: pa.Array) -> pa.Array:
    return (values.cast(pa.binary()) if pa.types.is_fixed_size_binary(values.type) else values).cast(pa.large_binary())


def _without(values: pa.Array, indices: pa.Array | None) -> pa.Array:
    """Text, or dictionary-encoded text with these indices; values that are too long become null."""
    good = np.asarray(pc.call_function("binary_length", [values]).fill_null(0)) <= LONGEST
    if good.all() and indices is None:
        return values
    # Arrow also takes memory for masked values, so the dictionary is built without them.
    places = np.cumsum(good) - 1
    renamed = pa.array(places, pa.int64(), mask=~good)
    renamed = renamed if indices is None else renamed.take(indices)
    return pa.DictionaryArray.from_arrays(renamed, values.filter(pa.array(good)))


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary.take(column.indices) if pa.types.is_dictionary(column.type) else column


def _main(uri: str, format: str) -> None:
    """The main function of the reading process: writes batches to stdout; the last line of stderr is the error."""
    with open("/proc/self/status") as status:
        used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    writer = None
    try:
        for batch in _batches(uri, format):
            writer = writer or pa.ipc.new_stream(sys.stdout.buffer, batch.schema)
            writer.write_batch(batch)
        if writer:
            writer.close()
        else:
            pa.ipc.new_stream(sys.stdout.buffer, pa.schema({})).close()
        sys.stdout.flush()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os._exit(0)  # the reader has closed the pipe
    except BaseException as error:
        print(" ".join(f"{type(error).__name__}: {error}".split())[:1000], file=sys.stderr)
        os._exit(3)


if __name__ == "__main__":
    _main(*sys.argv[1:])
