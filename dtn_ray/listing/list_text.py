"""Text lists, as pages of cells: one key per line, or CSV. Does not import Ray.

Text is read in blocks. A block is parsed at once if every line in it is a row, which is nearly always so. A line or row
that is too long is skipped without being held.
"""

import codecs
import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.listing.left_out import BAD_LINE
from dtn_ray.listing.list_columns import column, places
from dtn_ray.storage.local_files import Odd, escape
from dtn_ray.text.display import name as shown

ROWS = 20_000  # of a page
BLOCK = 1 << 20  # bytes that are read at once
LONGEST_LINE = 1 << 16  # characters; enough for any key of a bucket (1,024 bytes) and any local path
LINES_OF_ROW = 16  # most lines of one CSV row with line breaks inside quotation marks
DELIMITERS = ",;\t|"
MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
TEXT = pa.string()


class Page(NamedTuple):
    """Some rows of a list, its known columns under the names of list_columns.py."""

    table: pa.Table
    lines: np.ndarray
    """The line number of each row (for Parquet and ORC, the row number), from 1; int64."""


Block = tuple[int, list[str]]
"""The number of the first line, and consecutive lines with their line ends."""
Rows = tuple[Sequence[int], list[list[str]]]
"""The lines at which rows begin, and the rows of cells."""


def keys_alone(uri: str, local: bool, odd: Odd) -> Iterator[Page]:
    """The pages of a list with one key per line; they have only the column `key`.

    `local`: keys may be in any encoding, and come as local_files.py escapes them. `odd` records what is left out.
    """
    for first, lines in _blocks(uri, "\n", odd):
        keys = [line.rstrip("\r\n") for line in lines]
        if '"' in "".join(lines):
            keys = [key[1:-1].replace('""', '"') if _is_quoted(key) else key for key in keys]
        numbers: Sequence[int] = range(first, first + len(keys))
        if not all(map(str.strip, keys)):
            kept = [i for i, key in enumerate(keys) if key.strip()]
            numbers, keys = [numbers[i] for i in kept], [keys[i] for i in kept]
        yield from _paged(["key"], numbers, [keys], local, odd)


def _is_quoted(key: str) -> bool:
    return len(key) > 2 and key[0] == '"' == key[-1]


def table(uri: str, header: Sequence[str], local: bool, odd: Odd) -> Iterator[Page]:
    """The pages of a CSV file, whose columns are `header`, or its first line. As for `keys_alone`.

    Raises UserError if none of its columns can be the column of keys.
    """
    lines = _Lines(_blocks(uri, "", odd))
    names, delimiter = (list(header), ",") if header else _header(uri, lines)
    found = places(names)
    if "key" not in found:
        raise _no_key(uri, names)
    for numbers, rows in _rows(lines, delimiter, odd):
        if set(map(len, rows)) != {len(names)}:
            numbers, rows = _fitting(numbers, rows, names, odd)
        blank = [i for i, key in enumerate(_cells(rows, found["key"])) if not key.strip()]
        if blank:
            dropped = {i for i in blank if not any(map(str.strip, rows[i]))}
            numbers = [number for i, number in enumerate(numbers) if i not in dropped]
            rows = [row for i, row in enumerate(rows) if i not in dropped]
        yield from _paged([*found], numbers, [_cells(rows, i) for i in found.values()], local, odd)


def _no_key(uri: str, names: Sequence[str]) -> UserError:
    told = shown(" ".join(", ".join(names).split()))
    return UserError(
        f"--inventory {uri}: no column key, only {told}: its first line must name the columns, such as key,size"
    )


def _cells(rows: list[list[str]], place: int) -> list[str]:
    return [row[place] for row in rows]


def _header(uri: str, lines: "_Lines") -> tuple[list[str], str]:
    """The names of the columns, and the separator. Raises UserError if the first line does not name a column key."""
    first = next((line for line in lines if line[1].strip()), (1, ""))
    if found := re.fullmatch(r'"?sep=(.)"?\s*', first[1], re.IGNORECASE):  # a line that Excel writes
        return _parsed(next(lines, (1, ""))[1], found[1]), found[1]
    headers = {each: _parsed(first[1], each) for each in DELIMITERS}
    for delimiter, names in headers.items():
        if "key" in map(column, names):
            return names, delimiter
    if max(map(len, headers.values())) <= 1:  # a list of keys; its first line is a key or the column's name
        lines.again([first])
        return ["key"], ","
    raise _no_key(uri, max(headers.values(), key=len))


def _parsed(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _blocks(uri: str, newline: str, odd: Odd) -> Iterator[Block]:
    """The lines of a file, .gz unpacked. `newline`: the line end; if empty, \\r and \\r\\n count as well as \\n."""
    filesystem, path = storage.resolve(uri)
    with filesystem.open_input_stream(path) as stream:
        encoding = _encoding(stream.read(4))
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(errors), translate=False)
    ends = ("\n",) if newline else ("\n", "\r")
    number, rest, skipping = 1, "", False

    def too_long(number: int) -> None:
        odd(BAD_LINE, f"line {number}: more than {LONGEST_LINE} characters")

    with filesystem.open_input_stream(path) as stream:
        while True:
            content = stream.read(BLOCK)
            text = rest + decoder.decode(content, final=not content)
            if content and newline and not skipping and text.isspace():  # otherwise a small .gz could take hours
                number, rest = number + text.count("\n"), text[text.rfind("\n") + 1 :][:LONGEST_LINE]
                continue
            lines = list(io.StringIO(text, newline=newline))
            rest = lines.pop() if content and lines and not lines[-1].endswith(ends) else ""
            if skipping and lines:
                del lines[0]
                number, skipping = number + 1, False
            if len(rest) > LONGEST_LINE and not skipping:
                too_long(number + len(lines))
                skipping = True
            if skipping:
                rest = ""
            if lines and max(map(len, lines)) > LONGEST_LINE:
                start = 0
                for i in [i for i, line in enumerate(lines) if len(line) > LONGEST_LINE]:
                    too_long(number + i)
                    yield number + start, lines[start:i]
                    start = i + 1
                yield number + start, lines[start:]
            elif lines:
                yield number, lines
            number += len(lines)
            if not content:
                return


def _encoding(beginning: bytes) -> str:
    for mark, encoding in MARKS.items():
        if beginning.startswith(mark):
            return encoding
    if (
        len(beginning) == 4 and beginning[1::2] == b"\0\0"
    ):  # UTF-16 without a mark: every second byte of Latin letters is 0
        return "utf-16-le"
    return "utf-16-be" if len(beginning) == 4 and beginning[::2] == b"\0\0" else "utf-8"


class _Lines(Iterator[tuple[int, str]]):
    """Iterates over numbered lines, one by one or in blocks."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self.blocks, self.left = blocks, deque[tuple[int, str]]()

    def __next__(self) -> tuple[int, str]:
        while not self.left:
            first, lines = next(self.blocks)
            self.left.extend(enumerate(lines, first))
        return self.left.popleft()

    def again(self, lines: list[tuple[int, str]]) -> None:
        """Puts lines back, to be read again before the others."""
        self.left.extendleft(reversed(lines))


class _Row(Iterator[str]):
    """Passes lines to a CSV reader, and remembers the lines of the current row."""

    def __init__(self, lines: _Lines) -> None:
        self.lines, self.taken = lines, list[tuple[int, str]]()

    def __next__(self) -> str:
        if len(self.taken) == LINES_OF_ROW:
            raise csv.Error(f"a quotation mark that nothing closes within {LINES_OF_ROW} lines")
        self.taken.append(next(self.lines))
        return self.taken[-1][1]


def _rows(lines: _Lines, delimiter: str, odd: Odd) -> Iterator[Rows]:
    """The rows that can be parsed."""
    row = _Row(lines)
    reader = csv.reader(row, delimiter=delimiter, strict=True)
    while True:
        numbers, found = list[int](), list[list[str]]()
        while lines.left or not numbers:
            if not lines.left:
                block = next(lines.blocks, None)
                if block is None:
                    return
                try:
                    whole = list(csv.reader(block[1], delimiter=delimiter, strict=True))
                except csv.Error:
                    whole = []
                if len(whole) == len(block[1]):  # every row is one line, and all are valid
                    yield range(block[0], block[0] + len(whole)), whole
                    continue
                lines.again(list(enumerate(block[1], block[0])))
            row.taken.clear()
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                (number, _), *others = row.taken
                odd(BAD_LINE, f"line {number}: {error}")
                lines.again(others)  # the lines that an unclosed quotation mark had added to the row
                continue
            numbers.append(row.taken[0][0])
            found.append(cells)
        yield numbers, found


def _fitting(numbers: Sequence[int], rows: list[list[str]], header: list[str], odd: Odd) -> Rows:
    """The rows that have as many cells as the header, without blank rows."""
    kept, good = list[int](), list[list[str]]()
    for number, cells in zip(numbers, rows, strict=True):
        row = cells
        if not any(map(str.strip, row)):
            continue
        if len(header) == 1 and len(row) > 1 and any(row[1:]):
            row = [",".join(row)]  # commas in a key without quotation marks
        while len(row) > len(header) and not row[-1].strip():
            row = row[:-1]
        if len(row) != len(header):
            odd(BAD_LINE, f"line {number}: {len(row)} values for the columns {shown(', '.join(header))}")
            continue
        kept.append(number)
        good.append(row)
    return kept, good


def _paged(names: list[str], numbers: Sequence[int], cells: list[list[str]], local: bool, odd: Odd) -> Iterator[Page]:
    """Columns of text as pages, null for empty cells."""
    for start in range(0, len(numbers), ROWS):
        lines = numbers[start : start + ROWS]
        columns = [each[start : start + ROWS] for each in cells]
        try:
            arrays = [pa.array(each, TEXT) for each in columns]
        except UnicodeEncodeError:  # bytes that are not UTF-8
            lines, columns = _in_unicode(lines, columns, local, odd)
            arrays = [pa.array(each, TEXT) for each in columns]
        yield Page(pa.table([_without_empty(each) for each in arrays], names=names), np.array(lines, np.int64))


def _in_unicode(
    lines: Sequence[int], columns: list[list[str]], local: bool, odd: Odd
) -> tuple[Sequence[int], list[list[str]]]:
    if local:  # a local name may be in any encoding
        return lines, [[escape(value) for value in column] for column in columns]
    kept = list[int]()
    for i, line in enumerate(lines):
        text = "".join(column[i] for column in columns)
        if text.isascii() or not re.search("[\udc80-\udcff]", text):
            kept.append(i)
        else:
            odd(BAD_LINE, f"line {line}: not in UTF-8: {escape(text)}")
    return [lines[i] for i in kept], [[column[i] for i in kept] for column in columns]


def _without_empty(values: pa.Array) -> pa.Array:
    empty = pc.call_function("equal", [values, pa.scalar("")])
    return pc.call_function("if_else", [empty, pa.scalar(None, TEXT), values])
