"""Reads Parquet files from others within bounds, without trusting the footer.

A few bytes of Parquet can expand to gigabytes: compressed pages, values that are stored once and repeated many times,
nulls that take no bytes. So each row group is checked before it is decoded: the headers of its pages give their
unpacked sizes, and from these follows how many rows may be decoded together. The rows are then decoded in batches and
counted as they come.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dtn_ray import storage
from dtn_ray.errors import UserError, reason
from dtn_ray.parquet.thrift import Reader
from dtn_ray.storage.refusals import Refused

GROUP_BYTES = 256 << 20  # limit for the wanted columns of a row group, compressed and uncompressed
BATCH_BYTES = 64 << 20  # limit for a batch of values that are stored once and repeated many times
FOOTER_BYTES = 32 << 20
ROWS = 2 << 20  # of a row group; pyarrow writes half as many
PAGES = 100_000  # of a column of a row group
COLUMNS = 10_000
PER_VALUE = 16  # bytes per value in addition to the uncompressed pages: offsets, levels, or a number
TAIL = 64 << 10  # bytes read at once; most footers fit
# Errors that pyarrow raises for damaged bytes, and those of the store.
DAMAGE = (OSError, ValueError, LookupError, ArithmeticError, NotImplementedError, MemoryError, TypeError)


class Damaged(UserError):
    """The content of a Parquet file cannot be read."""


class Table:
    """An open Parquet file. Use `opened`, which closes it."""

    def __init__(self, uri: str, stream: pa.NativeFile) -> None:
        """Reads the footer. Raises UserError if it is damaged or too large, OSError if the store fails."""
        self.uri, self.source = uri, _Source(stream)
        with damage(uri):
            self.source.hold(max(0, self.source.size() - TAIL), TAIL)
            self.source.seek(self.source.size() - 8)
            tail = bytes(self.source.read(8))
            if tail[4:] != b"PAR1":
                raise ValueError("it does not end as Parquet does")
            length = int.from_bytes(tail[:4], "little")
            if length > FOOTER_BYTES:
                raise ValueError(f"its footer is larger than {FOOTER_BYTES >> 20} MiB")
            self.source.seek(self.source.size() - 8 - length)
            self.chunks = _chunks(memoryview(self.source.read(length)))
            self.file = pq.ParquetFile(
                pa.PythonFile(self.source, mode="r"),
                pre_buffer=False,
                thrift_string_size_limit=FOOTER_BYTES,
                thrift_container_size_limit=1_000_000,
                page_checksum_verification=True,
            )
            self.metadata = self.file.metadata
            if self.metadata.num_columns > COLUMNS:
                raise ValueError(f"it has {self.metadata.num_columns} columns, more than {COLUMNS}")
            self.schema = self.file.schema_arrow
            _ = self.schema.names  # fails if damaged names are not text
            self.rows = [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]
            for i, rows in enumerate(self.rows):
                if not 0 <= rows <= ROWS:
                    raise ValueError(f"row group {i} is said to have {rows} rows; {ROWS} are the most that are read")

    def batches(self, group: int, columns: Sequence[str] | None = None, rows: int = ROWS) -> Iterator[pa.RecordBatch]:
        """The rows of a row group in order, at most `rows` at a time; `columns`: paths in the file's schema.

        Raises UserError for a row group that takes more than GROUP_BYTES, OSError or ValueError for a damaged one.
        """
        at_once = min(rows, self._look_through(group, columns))
        taken = found = 0
        for batch in self.file.iter_batches(at_once, row_groups=[group], columns=columns and [*columns]):
            batch.validate(full=True)  # otherwise text that is not UTF-8 would fail later
            taken += sum(map(_size, batch.columns))
            if taken > GROUP_BYTES:
                raise self._too_large(group)
            found += len(batch)
            yield batch
        if found != self.rows[group]:
            raise ValueError(f"row group {group} has {found} rows, but the footer says {self.rows[group]}")

    def read(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole row group. Raises as `batches` does."""
        batches = list(self.batches(group, columns))
        if batches:
            return pa.Table.from_batches(batches)
        return self.file.read_row_group(group, columns=columns and [*columns])

    def may_hold(self, group: int, column: str, low: str, high: str) -> bool:
        """Whether a row group may have texts from `low` to `high` in a column."""
        found = next((chunk for chunk in self.chunks[group] if chunk.path == column), None)
        if found is None or found.least is None or found.most is None:
            return True
        return found.least <= high.encode() and found.most >= low.encode()

    def _too_large(self, group: int) -> UserError:
        return UserError(
            f"{self.uri}: row group {group} takes more than {GROUP_BYTES >> 20} MiB in memory; write the file again "
            "with fewer rows in each row group (row_group_size of pyarrow)"
        )

    def _look_through(self, group: int, columns: Sequence[str] | None) -> int:
        """How many rows of a row group may be decoded together. Raises as `batches` does."""
        at_once = ROWS
        self.source.held.clear()
        total = 0
        for column in self.chunks[group]:
            if columns is not None and not any(
                column.path == name or column.path.startswith(f"{name}.") for name in columns
            ):
                continue
            start, length = column.start, column.length
            if length > GROUP_BYTES:
                raise self._too_large(group)
            if start < 4 or length < 0 or start + length > self.source.size():
                raise ValueError(f"column {column.path} of row group {group} lies outside of the file")
            self.source.hold(start, length)
            pages = list(_pages(self.source.held[start], column.values))
            total += sum(page.size + PER_VALUE * page.values for page in pages)
            if total > GROUP_BYTES:
                raise self._too_large(group)
            if column.kind == BYTE_ARRAY:
                repeated = max((page.repeated for page in pages), default=0)
                at_once = min(at_once, max(1, BATCH_BYTES // (repeated + PER_VALUE)))
        return at_once


def _size(values: pa.Array) -> int:
    """Bytes of values, of a dictionary as if each value were written out."""
    if pa.types.is_struct(values.type):
        return sum(_size(values.field(i)) for i in range(values.type.num_fields))
    if not pa.types.is_dictionary(values.type):
        return values.nbytes
    if pa.types.is_nested(values.type.value_type) or pa.types.is_primitive(values.type.value_type):
        return PER_VALUE * len(values) + values.nbytes
    lengths = pc.call_function("binary_length", [values.dictionary]).take(values.indices)
    return PER_VALUE * len(values) + (pc.call_function("sum", [lengths]).as_py() or 0)


@contextmanager
def opened(uri: str) -> Iterator[Table]:
    """An open Parquet file.

    Raises Damaged for its footer, or for what is read within the block, FileNotFoundError if it is gone,
    OSError where the store fails.
    """
    filesystem, path = storage.resolve(uri)
    with filesystem.open_input_file(path) as stream, damage(uri):
        yield Table(uri, stream)


@contextmanager
def damage(uri: str) -> Iterator[None]:
    """Raises Damaged for what reading a Table called `uri` raises of its bytes; lets the store's errors pass."""
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except DAMAGE as error:
        if not is_damage(error):
            raise
        raise Damaged(f"{uri}: not a readable Parquet file ({reason(error, 300)})") from error


def is_damage(error: BaseException) -> bool:
    """Whether an error lies in a file's bytes. The store's own errors may be transient; these are not."""
    if isinstance(error, OSError):
        return not isinstance(error, Refused) and error.errno is None and "AWS Error" not in str(error)
    return isinstance(error, DAMAGE)


class _Source:
    """A file with some parts held in memory, because they are checked before pyarrow reads them."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self.stream, self.place, self.held = stream, 0, dict[int, memoryview]()
        self.length = stream.size()
        self.closed = False

    def hold(self, start: int, length: int) -> None:
        """Holds a part, beside those of the same row group that are held."""
        self.held[start] = memoryview(self.stream.read_at(length, start))

    def size(self) -> int:
        return self.length

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        self.place = place + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.length}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, count: int = -1) -> memoryview | bytes:
        count = self.length - self.place if count < 0 else min(count, max(0, self.length - self.place))
        start, self.place = self.place, self.place + count
        for at, part in self.held.items():
            if at <= start and start + count <= at + len(part):
                return part[start - at : start - at + count]
        if count > GROUP_BYTES:
            raise ValueError(f"the file makes its reader ask for {count} bytes")
        return self.stream.read_at(count, start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class _Chunk:
    """A column of a row group, as the footer describes it."""

    path: str
    kind: int
    """Its physical type, by Parquet's number."""
    values: int
    start: int
    """Where its first page begins in the file …"""
    length: int
    """… and how many bytes all of them take, packed."""
    least: bytes | None
    """The smallest value, if the footer has it; text is compared by its bytes."""
    most: bytes | None

    @classmethod
    def of(cls, column: dict[int, Any]) -> "_Chunk":
        """Raises ValueError if the footer lacks something that reading needs."""
        about = column.get(3)
        if not isinstance(about, dict):
            raise ValueError("its footer is damaged: a column without a description")
        path, statistics = about.get(3), about.get(12)
        numbers = [value for i in (1, 5, 7, 9) if isinstance(value := about.get(i), int)]
        if not isinstance(path, list) or not all(isinstance(each, bytes) for each in path):
            raise ValueError("its footer is damaged: a column without a name")
        if len(numbers) < 4:
            raise ValueError("its footer is damaged: a column without a place")
        kind, values, length, start = numbers
        dictionary = about.get(11)
        if isinstance(dictionary, int) and 0 < dictionary < start:
            start = dictionary
        told = statistics if isinstance(statistics, dict) else {}
        least, most = (value if isinstance(value := told.get(i), bytes) else None for i in (6, 5))
        return cls(b".".join(path).decode(), kind, values, start, length, least, most)


def _chunks(footer: memoryview) -> list[list[_Chunk]]:
    """The columns of each row group. Raises ValueError for a damaged footer."""
    groups = Reader(footer).struct().get(4)
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError("its footer is damaged: no list of row groups")
    columns = [group.get(1) for group in groups]
    if not all(isinstance(each, list) and all(isinstance(column, dict) for column in each) for each in columns):
        raise ValueError("its footer is damaged: a row group without columns")
    return [[_Chunk.of(column) for column in each] for each in columns]


@dataclass(frozen=True)
class _Page:
    """The contents of a page's header."""

    size: int
    """Bytes that it unpacks to."""
    values: int
    repeated: int
    """Bytes that one of its values may take without taking them in the page."""


BYTE_ARRAY = 6
DICTIONARY_PAGE = 2
PLAIN_DICTIONARY, DELTA_BYTE_ARRAY, RLE_DICTIONARY = 2, 7, 8


def _pages(data: memoryview, values: int) -> Iterator[_Page]:
    """Of a column chunk. Raises ValueError if its pages' headers are damaged."""
    place, dictionary, seen = 0, 0, 0
    for _ in range(PAGES):
        if place >= len(data) or seen >= values:
            return
        reader = Reader(data, place)
        header, place = reader.struct(), reader.place
        kind, size, packed = (header.get(i) for i in (1, 2, 3))
        if not isinstance(size, int) or not isinstance(packed, int) or size < 0 or packed < 0:
            raise ValueError("the header of a page is damaged")
        place += packed
        if kind == DICTIONARY_PAGE:
            dictionary = max(dictionary, size)
            yield _Page(size, 0, 0)
            continue
        about = header.get(5) or header.get(8)
        if not isinstance(about, dict):  # an index, which readers skip
            continue
        count, encoding = about.get(1, 0), about.get(2 if 5 in header else 4)
        if not isinstance(count, int) or count < 0:
            raise ValueError("the header of a page is damaged")
        seen += count
        repeated = {PLAIN_DICTIONARY: dictionary, RLE_DICTIONARY: dictionary, DELTA_BYTE_ARRAY: size}
        yield _Page(size, count, repeated.get(encoding, 0) if isinstance(encoding, int) else 0)
    raise ValueError(f"a column of a row group has more than {PAGES} pages")
