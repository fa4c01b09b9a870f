"""Parquet files that dtn-ray writes and reads itself: damage is an error, never fewer or other rows.

Every page has a checksum. No checksum covers the footer, so its digest is in the file's name.
"""

import hashlib
import io
import re
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

TAIL = 64 << 10  # bytes read at once; most footers fit


def encode(table: pa.Table, rows_per_group: int | None = None) -> bytes:
    """Encodes a table as a file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=rows_per_group, write_page_checksum=True)
    return buffer.getvalue()


def name(stem: str, content: bytes) -> str:
    """The name to store a file under: <stem>-<digest of its footer>.parquet."""
    return f"{stem}-{_digest(_footer(pa.BufferReader(content)))}.parquet"


def open_file(file: pa.NativeFile, uri: str) -> pq.ParquetFile:
    """Opens a file with the name `uri` that dtn-ray wrote. Raises as `check` does.

    Reading a damaged page raises ValueError or OSError.
    """
    metadata = pq.read_metadata(pa.BufferReader(check(file, uri)))
    return pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True)


class Seekable(Protocol):
    """A file from which a footer can be read."""

    def size(self) -> int: ...
    def seek(self, place: int) -> int: ...
    def read(self, count: int) -> bytes | memoryview: ...


def check(file: Seekable, uri: str) -> bytes:
    """Checks and returns the footer of a file with the name `uri`. A name without a digest (older versions) is
    accepted.

    Raises ValueError if the footer is damaged.
    """
    footer = _footer(file)
    named = re.search(r"-([0-9a-f]{16})\.parquet$", uri)
    if named and _digest(footer) != named[1]:
        raise ValueError("its footer is damaged")
    return footer


def _footer(file: Seekable) -> bytes:
    """The end of a file from its metadata on; if it is damaged, some other bytes."""
    size = file.size()
    length = min(size, TAIL)
    while True:
        file.seek(size - length)
        tail = bytes(file.read(length))
        needed = min(size, int.from_bytes(tail[-8:-4], "little") + 8)
        if needed <= length:
            return tail[length - needed :]
        length = needed


def _digest(footer: bytes) -> str:
    return hashlib.sha256(footer).hexdigest()[:16]
