"""Lists of objects made elsewhere, in place of a listing: S3 Inventory, tables, lists of keys. Knows no Ray.

A line that cannot be meant is counted with its number, and the others are taken.
"""

import csv
import io
import json
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from botocore.exceptions import ClientError
from pyarrow import orc

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.left_out import BAD_LINE, FOLDER, OUTSIDE, UNSAFE
from dtn_ray.local_files import Odd, escape, name_of
from dtn_ray.values import Microseconds, microseconds, whole

# What inventories call the columns of storage.LISTING, in small letters without _, - and spaces; those of a CSV file
# are in its header or, for S3 Inventory, in the manifest.
COLUMNS = {
    "bucket": "bucket",
    "key": "key",
    "size": "size",
    "etag": "version",
    "version": "version",
    "lastmodifieddate": "modified",
    "lastmodified": "modified",
    "modified": "modified",
    "storageclass": "storage_class",
    "islatest": "islatest",
    "isdeletemarker": "isdeletemarker",
}
FORMATS = (".parquet", ".csv", ".csv.gz", ".txt", ".txt.gz", "manifest.json")
ROWS = 20_000  # held at once …
CHARACTERS = 1 << 24  # … or so many characters
LONGEST_LINE = 1 << 16
DELIMITERS = ",;\t|"
MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
SHORT = 1 << 20  # bytes of a list that is read in less time than Ray takes to start
FAILED_AT_ONCE = 64  # objects of which a store fails to tell, when it has told of none: it is the store
TIME = storage.LISTING.field("modified").type


@dataclass(frozen=True)
class InventoryFile:
    """One file of an inventory."""

    uri: str
    format: str
    """parquet, orc, csv or txt."""
    header: tuple[str, ...] = ()
    """The columns of a CSV file that has none itself."""
    quoted: bool = False
    """Keys are URL-encoded, as S3 Inventory does it in CSV."""


def open_inventory(uri: str) -> list[InventoryFile]:
    """The files of an inventory, which is

    - a manifest.json of S3 Inventory (Parquet, ORC or CSV): keys as in the bucket, other buckets are left out;
    - a Parquet or CSV file (.csv, .csv.gz) with a header, of which the column key is needed and size, etag and
      last_modified are used; with a column bucket, keys are as in the bucket;
    - a list of keys, one a line (.txt, .txt.gz), as `find` writes it; a CSV file of one column may be such a list too.

    Text is UTF-8, or UTF-16 or UTF-32 with a byte-order mark; CSV is separated by one of , ; | or tabs. Keys without a
    bucket are relative to IN, or whole URIs, or paths below a local IN. Raises UserError for what is none of these or
    is absent.
    """
    if not storage.is_file(uri):
        raise UserError(f"--inventory {uri}: no such file")
    name = uri.lower()
    if name.endswith("manifest.json"):
        return _manifest(uri)
    for ending, kind in ((".parquet", "parquet"), (".csv", "csv"), (".txt", "txt")):
        if name.removesuffix(".gz").endswith(ending):
            return [InventoryFile(uri, kind)]
    raise UserError(f"--inventory {uri}: none of the kinds that are known: a name that ends in {', '.join(FORMATS)}")


def _manifest(uri: str) -> list[InventoryFile]:
    try:
        manifest = json.loads(storage.read_bytes(uri))
        bucket = manifest["destinationBucket"].removeprefix("arn:aws:s3:::")
        kind = manifest["fileFormat"].lower()
        header = tuple(name.strip() for name in manifest["fileSchema"].split(",")) if kind == "csv" else ()
        uris = [f"s3://{bucket}/{file['key']}" for file in manifest["files"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--inventory {uri}: not a manifest of S3 Inventory: {error!r}") from error
    except OSError as error:
        raise UserError(f"--inventory {uri}: cannot be read: {error}") from error
    if kind not in ("csv", "parquet", "orc"):
        raise UserError(f"--inventory {uri}: files of the format {kind}; CSV, Parquet and ORC can be read")
    return [InventoryFile(each, kind, header, quoted=kind == "csv") for each in uris]


def is_short(files: list[InventoryFile]) -> bool:
    """Whether an inventory is one text file of SHORT bytes at most. Raises UserError where it cannot be read."""
    if len(files) != 1 or files[0].format not in ("csv", "txt") or files[0].uri.lower().endswith(".gz"):
        return False
    try:
        return storage.stat(files[0].uri)[1] <= SHORT
    except OSError as error:
        raise UserError(f"--inventory {files[0].uri}: cannot be read: {error}") from error


class Page(NamedTuple):
    """Some rows of a file of an inventory."""

    table: pa.Table
    lines: Iterable[int]
    """For each row its line (of a Parquet or ORC file, row), from 1."""


def read_inventory(file: InventoryFile, source: str, odd: Odd) -> Iterator[pa.Table]:
    """The objects below `source` that a file lists, as tables of storage.LISTING, in the file's order.

    Where the file tells no version or size of an object, the store is asked; an object that it does not tell of has
    neither. `odd` is told of lines that are left out, by reason (left_out.REASONS). Raises UserError for a file that
    cannot be read or has no keys, and for a store that does not answer.
    """
    keys = _Keys(file, source)
    with ThreadPoolExecutor(32) as pool:
        try:
            for page in _pages(file, keys.local, odd):
                listed = _listing(page, file, keys, odd)
                yield _asked(listed, source, odd, pool.map)
        except UserError:
            raise
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"--inventory {file.uri}: cannot be read: {error}") from error


def _pages(file: InventoryFile, local: bool, odd: Odd) -> Iterator[Page]:
    filesystem, path = storage.resolve(file.uri)
    if file.format in ("parquet", "orc"):
        with filesystem.open_input_file(path) as stream:
            if file.format == "orc":
                stripes = orc.ORCFile(stream)
                batches = (stripes.read_stripe(i) for i in range(stripes.nstripes))
            else:
                batches = pq.ParquetFile(stream).iter_batches(ROWS)
            start = 1
            for batch in batches:
                yield Page(pa.Table.from_batches([batch]), range(start, start + len(batch)))
                start += len(batch)
        return
    with filesystem.open_input_stream(path) as stream:  # which unpacks .gz by itself
        encoding = _encoding(stream.read(4))
    with filesystem.open_input_stream(path) as stream:
        errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
        text = io.TextIOWrapper(stream, encoding, errors, newline="\n" if file.format == "txt" else "")
        lines = _lines(text, odd)
        header, rows = _keys_alone(lines) if file.format == "txt" else _csv(file, lines, odd)
        yield from _tables(header, rows, local, odd)


def _encoding(beginning: bytes) -> str:
    for mark, encoding in MARKS.items():
        if beginning.startswith(mark):
            return encoding
    if len(beginning) == 4 and beginning[1::2] == b"\0\0":  # without a mark: every second byte of Latin letters is 0
        return "utf-16-le"
    return "utf-16-be" if len(beginning) == 4 and beginning[::2] == b"\0\0" else "utf-8"


Line = tuple[int, str]
Cells = tuple[int, list[str]]


def _lines(text: io.TextIOWrapper, odd: Odd) -> Iterator[Line]:
    """Lines with their ends and numbers; those longer than any key are left out, whatever memory they would take."""
    number = 0
    while line := text.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            odd(BAD_LINE, f"line {number}: more than {LONGEST_LINE} characters")
            while (rest := text.readline(LONGEST_LINE)) and not rest.endswith("\n"):
                pass
            continue
        yield number, line


def _keys_alone(lines: Iterator[Line]) -> tuple[list[str], Iterator[Cells]]:
    def unquoted(line: str) -> str:
        key = line.rstrip("\r\n")
        return key[1:-1].replace('""', '"') if len(key) > 2 and key[0] == key[-1] == '"' else key

    return ["key"], ((number, [unquoted(line)]) for number, line in lines)


def _csv(file: InventoryFile, lines: Iterator[Line], odd: Odd) -> tuple[list[str], Iterator[Cells]]:
    """Header and rows of a CSV file. Raises UserError where none of its columns can be that of the keys."""
    if file.header:
        return list(file.header), _csv_rows(lines, ",", odd)
    first = next((line for line in lines if line[1].strip()), (1, ""))
    if found := re.fullmatch(r'"?sep=(.)"?\s*', first[1], re.IGNORECASE):  # Excel's word
        header = next(lines, (1, ""))
        names = next(csv.reader([header[1]], delimiter=found[1]), [])
        return names, _csv_rows(lines, found[1], odd)
    headers = {each: next(csv.reader([first[1]], delimiter=each), []) for each in DELIMITERS}
    for delimiter, names in headers.items():
        if "key" in map(_column, names):
            return names, _csv_rows(lines, delimiter, odd)
    if max(map(len, headers.values())) <= 1:  # a list of keys, whose first line is one too or the column's name
        return ["key"], _csv_rows(chain([first], lines), ",", odd)
    names = max(headers.values(), key=len)
    raise UserError(
        f"--inventory {file.uri}: no column key, only {', '.join(names)}: its first line must name the columns, such "
        "as key,size"
    )


class _Record:
    """Gives lines to a CSV reader, and keeps those of the row that it reads."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self.lines, self.again, self.row = lines, deque[Line](), list[Line]()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.row.append(self.again.popleft() if self.again else next(self.lines))
        return self.row[-1][1]


def _csv_rows(lines: Iterator[Line], delimiter: str, odd: Odd) -> Iterator[Cells]:
    record = _Record(lines)
    reader = csv.reader(record, delimiter=delimiter, strict=True)
    while True:
        record.row.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            (number, _), *others = record.row
            odd(BAD_LINE, f"line {number}: {error}")
            record.again.extendleft(reversed(others))  # what a quotation mark that nothing closes took into the row
            continue
        yield record.row[0][0], row


def _tables(header: list[str], rows: Iterator[Cells], local: bool, odd: Odd) -> Iterator[Page]:
    """The rows as text, without blank ones."""
    numbers, cells, characters = list[int](), list[list[str]](), 0

    def page() -> Page:
        columns = [pa.array([value or None for value in column], pa.string()) for column in zip(*cells, strict=True)]
        return Page(pa.table(columns, names=header), list(numbers))

    for number, found in rows:
        row = found
        if not any(row) or not any(map(str.strip, row)):
            continue
        if len(header) == 1 and len(row) > 1 and any(row[1:]):
            row = [",".join(row)]  # commas of a key that nobody quoted
        while len(row) > len(header) and not row[-1].strip():
            row = row[:-1]
        if len(row) != len(header):
            odd(BAD_LINE, f"line {number}: {len(row)} values for the columns {', '.join(header)}")
            continue
        text = "".join(row)
        if not text.isascii() and re.search("[\udc80-\udcff]", text):
            if not local:
                odd(BAD_LINE, f"line {number}: not in UTF-8: {escape(text)}")
                continue
            row = [escape(value) for value in row]  # a local name may be in any encoding
        numbers.append(number)
        cells.append(row)
        characters += len(text)
        if len(cells) == ROWS or characters > CHARACTERS:
            yield page()
            numbers, cells, characters = [], [], 0
    if cells:
        yield page()


def _column(name: str) -> str | None:
    """The column of storage.LISTING (or of S3 Inventory's own) that a name stands for."""
    return COLUMNS.get(re.sub(r"[\s_-]", "", name).lower())


def _listing(page: Page, file: InventoryFile, keys: "_Keys", odd: Odd) -> pa.Table:
    """The rows of one page that lie below the source, in the columns of storage.LISTING."""
    table = page.table
    places = {_column(name): i for i, name in reversed([*enumerate(table.column_names)])}
    names = {name: i for name, i in places.items() if name}
    if "key" not in names:
        raise UserError(f"--inventory {file.uri}: no column key, only {', '.join(table.column_names)}")
    table = table.select(list(names.values())).rename_columns(list(names))
    table = table.append_column("line", pa.array(page.lines, pa.int64()))
    for flag, wanted in (("islatest", True), ("isdeletemarker", False)):
        if flag in table.column_names:
            table = table.filter(pc.field(flag).is_null() | (pc.field(flag).cast(pa.bool_()) == wanted))
    in_bucket = "bucket" in table.column_names
    if in_bucket:
        other = table.filter(pc.field("bucket") != keys.bucket)
        for bucket in other["bucket"].to_pylist():
            odd(OUTSIDE, f"s3://{bucket}")
        table = table.filter(pc.field("bucket") == keys.bucket)
    lines, where = table["line"].to_pylist(), "line" if file.format in ("csv", "txt") else "row"
    bad = dict[int, str]()

    def column(name: str, type: pa.DataType) -> pa.ChunkedArray:
        return table[name].cast(type) if name in table.column_names else pa.nulls(len(table), type)

    def values(name: str, type: pa.DataType, parse: Callable[[Any], int | None]) -> pa.Array | pa.ChunkedArray:
        """A column of numbers; rows where it has something else are bad."""
        if name not in table.column_names:
            return pa.nulls(len(table), type)
        if name == "size" or pa.types.is_temporal(table[name].type) or _is_text(table[name].type):
            in_ns = pa.types.is_timestamp(table[name].type) and table[name].type.unit == "ns"
            with suppress(
                pa.ArrowInvalid
            ):  # numbers in text may have a fraction, times another form or be too far away
                cast = table[name].cast(type, safe=not in_ns)
                if name != "size" or (pc.call_function("min", [cast]).as_py() or 0) >= 0:
                    return cast
        found = list[int | None]()
        for i, value in enumerate(_plain(table[name])):
            try:
                found.append(parse(value))
            except (ValueError, OverflowError):
                bad[i] = f"{name} {value!r} cannot be read"
                found.append(None)
        return pa.array(found, pa.int64()).cast(type)

    size = values("size", pa.int64(), whole)
    modified = values("modified", TIME, microseconds)
    relative = list[str | None]()
    for i, (key, line) in enumerate(zip(_texts(table["key"]), lines, strict=True)):
        found = None
        if key is None:
            bad[i] = bad.get(i, "no key")
        if i in bad:
            odd(BAD_LINE, f"{where} {line}: {bad[i]}")
        else:
            found, reason = keys.relative(key or "", in_bucket)
            if reason:
                odd(reason, f"{where} {line}: {key}{' leads out of IN' if reason == UNSAFE else ''}")
        relative.append(found)
    columns = {
        "key": pa.array(relative, pa.string()),
        "version": pc.call_function("utf8_trim", [column("version", pa.string())], pc.TrimOptions('"')),
        "size": size,
        "modified": modified,
        "storage_class": column("storage_class", pa.string()),
    }
    listed = pa.table([columns[name] for name in storage.LISTING.names], schema=storage.LISTING)
    listed = listed.filter(pc.field("key").is_valid())
    named_so = pc.call_function("ends_with", [listed["key"]], pc.MatchSubstringOptions("/"))
    empty = pc.call_function("less_equal", [listed["size"].fill_null(0), pa.scalar(0, pa.int64())])
    is_marker = pc.call_function("and", [named_so, empty])  # of a folder
    return listed.filter(pc.call_function("invert", [is_marker]))


def _is_text(type: pa.DataType) -> bool:
    return pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type)


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """Values for `values.py`; times as numbers of nanoseconds or what their unit is, as Python's own are too coarse."""
    if pa.types.is_timestamp(column.type):
        unit = {"s": 1_000_000, "ms": 1000, "us": 1}.get(column.type.unit)
        numbers = column.cast(pa.int64()).to_pylist()
        return [None if each is None else Microseconds(each * unit if unit else each // 1000) for each in numbers]
    return column.to_pylist()


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Keys; those of bytes that are no UTF-8 as local_files.py escapes them."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (_is_text(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        column = column.cast(pa.string())
    contents = column.cast(pa.large_binary()).to_pylist()
    return [escape(each.decode(errors="surrogateescape")) if each else None for each in contents]


class _Keys:
    """From keys as lists write them to keys as the listing of a source tells them."""

    def __init__(self, file: InventoryFile, source: str) -> None:
        self.quoted, self.local = file.quoted, not storage.is_s3(source)
        self.source, self.bucket, self.prefix = storage.child(source, "").rstrip("/"), "", ""
        if self.local:
            self.root = escape(os.path.abspath(storage.local_path(source)))
            self.below = lru_cache(1 << 14)(self._below)
        else:
            self.bucket, prefix = storage.bucket_and_key(source.rstrip("/"))
            self.prefix = prefix and prefix + "/"

    def relative(self, key: str, in_bucket: bool) -> tuple[str | None, str]:
        """The key, or None; and the reason where it is to be counted as left out."""
        if in_bucket:
            key = unquote_plus(key) if self.quoted else key
            return (key.removeprefix(self.prefix) or None, "") if key.startswith(self.prefix) else (None, OUTSIDE)
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", key) if "://" in key else None
        if self.local:
            if scheme and scheme[1].lower() != "file":
                return None, OUTSIDE
            return self._local(unquote(key[key.index("/", 7) :]) if scheme and "/" in key[7:] else key)
        if scheme:
            key = storage.join(key)  # s3a:// is s3://
            below = key.removeprefix(self.source + "/")
            return (below or None, "") if below != key else (None, OUTSIDE)
        return key, ""

    def _local(self, key: str) -> tuple[str | None, str]:
        names = [name for name in key.split("/") if name not in ("", ".")]
        if ".." in names:
            return None, UNSAFE
        if key.startswith("/"):
            folder = self.below("/" + "/".join(names[:-1]))
            if folder is None:
                return None, "" if "/" + "/".join(names) == self.root else UNSAFE
            names = [*folder, *names[-1:]]
        return "/".join(names) or None, ""

    def _below(self, folder: str) -> tuple[str, ...] | None:
        """An absolute folder as the names that lead to it from the source, by whatever links; None for one outside."""
        if f"{folder}/".startswith(f"{self.root.rstrip('/')}/"):
            return tuple(name for name in folder[len(self.root) :].split("/") if name)
        try:
            root, names = os.stat(name_of(self.root)), folder.split("/")
            for i in range(1, len(names) + 1):
                found = os.stat(name_of("/".join(names[:i]) or "/"))
                if (found.st_dev, found.st_ino) == (root.st_dev, root.st_ino):
                    return tuple(names[i:])
        except (OSError, ValueError):
            pass
        return None


def _asked(listed: pa.Table, source: str, odd: Odd, apply: Callable[..., Iterator[Any]]) -> pa.Table:
    """With version, size and time of change of those objects that have none, as the store tells them.

    Where the store refuses to tell of one, it stays as it is: it fails with the reason when it is read. Raises OSError
    if the store does not answer at all.
    """
    asked = zip(listed["version"].to_pylist(), listed["size"].to_pylist(), strict=True)
    unknown = [version is None or size is None for version, size in asked]
    if not any(unknown):
        return listed
    counts = Counter[str]()

    def ask(row: dict[str, Any]) -> dict[str, Any] | None:
        try:
            version, size, modified = storage.stat(storage.child(source, row["key"]))
        except IsADirectoryError:
            return None
        except (OSError, ValueError) as error:
            counts["failed" if _is_store(error) else "answered"] += 1
            if counts["failed"] >= FAILED_AT_ONCE and not counts["answered"]:
                raise
            return row
        counts["answered"] += 1
        return row | {"version": version, "size": size, "modified": modified}

    place = listed.column_names.index("modified")
    rows = listed.set_column(place, "modified", listed["modified"].cast(pa.int64())).to_pylist()
    found = list(apply(lambda row, is_unknown: ask(row) if is_unknown else row, rows, unknown))
    for row, asked_row in zip(rows, found, strict=True):
        if asked_row is None:
            odd(FOLDER, row["key"])
    return pa.Table.from_pylist([row for row in found if row is not None], storage.LISTING)


def _is_store(error: Exception) -> bool:
    """Whether it is the store that fails, not this object that it refuses."""
    cause = error.__cause__
    if isinstance(cause, ClientError):
        return cause.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
    return cause is not None
