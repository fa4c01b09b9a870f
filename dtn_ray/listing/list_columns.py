"""The names that lists of objects use for the columns of storage.LISTING."""

import re
from collections.abc import Sequence

# Names in lower case without _, - and spaces. A CSV file has them in its header; for S3 Inventory the manifest does.
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


def column(name: str) -> str | None:
    """The column of storage.LISTING (or of S3 Inventory's own) that a name denotes."""
    return COLUMNS.get(re.sub(r"[\s_-]", "", name[:100]).lower())


def places(names: Sequence[str]) -> dict[str, int]:
    """The index of each of these columns; the first, if several have the same name."""
    found = {column(name): i for i, name in reversed([*enumerate(names)])}
    return {name: i for name, i in found.items() if name}
