"""The row groups of Parquet files that hold a set of images of any size."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from dtn_ray import storage
from dtn_ray.data import layouts
from dtn_ray.errors import UserError
from dtn_ray.images.names import is_photo_name
from dtn_ray.parquet import tables

FILES_AT_ONCE = 256
WITH_IDENTITY = ("image", "identity")


@dataclass(frozen=True)
class Group:
    """Rows of one row group of a Parquet file with a column `image` of encoded images."""

    uri: str
    index: int
    rows: int
    start: int = 0

    def table(self, columns: list[str]) -> pa.Table:
        """The rows; `image` as `large_binary`, null if a row has none. Raises OSError if the store fails.

        A damaged row group has null in all columns. Raises UserError if the file is gone, or the row group takes more
        memory than tables.GROUP_BYTES.
        """
        try:
            with tables.opened(self.uri) as file:
                stored = [layouts.image_column(file.schema) if name == "image" else name for name in columns]
                rows = file.read(self.index, stored).slice(self.start, self.rows)
        except FileNotFoundError as error:
            raise UserError(f"{self.uri}: this file was deleted after the training began") from error
        except tables.Damaged:
            types = {"image": layouts.IMAGES}
            return pa.table({name: pa.nulls(self.rows, types.get(name, pa.null())) for name in columns})
        if "image" in columns:
            rows = rows.set_column(rows.column_names.index("image"), "image", layouts.encoded(rows["image"]))
        return rows.select(columns)

    def name(self, row: int) -> str:
        """The name of one of its rows."""
        return f"{self.uri}, row {self.start + row} of row group {self.index}"


@dataclass(frozen=True)
class Files:
    """Images below a folder that has one subfolder for each person."""

    uri: str
    keys: tuple[str, ...]
    rows: int
    start: int = 0

    def table(self, columns: list[str]) -> pa.Table:
        """`image` (null if the file is gone) and `identity` of its rows. Raises OSError if the store fails."""
        keys = self.keys[self.start : self.start + self.rows]
        found = storage.read_many([storage.join(self.uri, key) for key in keys])
        for image in found:
            if isinstance(image, OSError) and not isinstance(image, FileNotFoundError | PermissionError):
                raise image
        images = pa.array([image if isinstance(image, bytes) else None for image in found], layouts.IMAGES)
        return pa.table({"image": images, "identity": [*map(person, keys)]}).select(columns)

    def name(self, row: int) -> str:
        """The name of one of its rows."""
        return storage.join(self.uri, self.keys[self.start + row])


Rows = Group | Files


def find_groups(uri: str, columns: Sequence[str] = ("image",)) -> list[Group]:
    """The row groups of all Parquet files at or below a URI, in the order of their names.

    Reads only footers. Raises UserError if there is no file, or a file is damaged or lacks one of `columns`.
    """
    uris = [uri] if uri.endswith(".parquet") else _parquet_files(uri, storage.list_keys(uri))
    if not uris:
        raise UserError(f"{uri}: no Parquet files there; jobs/ingest.py and jobs/make_emoji.py write them")
    return _row_groups(uri, uris, columns)


def find_people(uri: str) -> list[Rows]:
    """Faces of people: Parquet files with columns `image` and `identity`, or a folder with a subfolder for each person.

    Files of a folder come in a random order, always the same. Raises UserError if there are none.
    """
    if uri.endswith(".parquet"):
        return [*find_groups(uri, WITH_IDENTITY)]
    keys = storage.list_keys(uri)
    if uris := _parquet_files(uri, keys):
        return [*_row_groups(uri, uris, WITH_IDENTITY)]
    keys = sorted(key for key in keys if is_photo_name(key) and "/" in key)
    if not keys:
        raise UserError(f"{uri}: neither Parquet files there nor folders of images, one for each person")
    order = np.random.default_rng(0).permutation(len(keys))
    parts = [tuple(keys[j] for j in order[i : i + FILES_AT_ONCE]) for i in range(0, len(keys), FILES_AT_ONCE)]
    return [Files(uri, part, len(part)) for part in parts]


def _parquet_files(uri: str, keys: Sequence[str]) -> list[str]:
    return [storage.join(uri, key) for key in sorted(keys) if key.endswith(".parquet") and layouts.is_data(key)]


def _row_groups(uri: str, uris: Sequence[str], columns: Sequence[str]) -> list[Group]:
    with ThreadPoolExecutor(32) as pool:
        found = [group for groups in pool.map(partial(_footer, columns=columns), uris) for group in groups]
    groups = [group for group in found if group.rows]
    if not groups:
        raise UserError(f"{uri}: its Parquet files have no rows")
    return groups


def _footer(uri: str, columns: Sequence[str]) -> list[Group]:
    try:
        with tables.opened(uri) as file:
            schema, rows = file.schema, file.rows
    except OSError as error:
        raise UserError(f"{uri}: not a readable Parquet file ({error})") from error
    for missing in (column for column in columns if column not in schema.names):
        meaning = ", which tells who is who" if missing == "identity" else ""
        raise UserError(f"{uri}: no column `{missing}`{meaning}; it has {', '.join(schema.names)}")
    layouts.check_images(schema.field("image").type, uri)
    if "identity" in columns and pa.types.is_nested(schema.field("identity").type):
        raise UserError(f"{uri}: column `identity` holds {schema.field('identity').type}; one value a row is needed")
    return [Group(uri, i, count) for i, count in enumerate(rows)]


def identities(groups: Sequence[Rows]) -> list[str]:
    """All people of some groups, sorted; reads nothing but their column `identity`."""
    with ThreadPoolExecutor(32) as pool:
        return sorted({name for names in pool.map(_identities, groups) for name in names})


def _identities(group: Rows) -> set[str]:
    if isinstance(group, Files):
        return {person(key) for key in group.keys[group.start : group.start + group.rows]}
    found = group.table(["identity"])["identity"].unique().to_pylist()
    return {str(each) for each in found if each is not None}  # a row without an identity is a bad row


def person(key: str) -> str:
    """Whose folder a key lies in."""
    return key.rpartition("/")[0]


def count_rows(groups: Iterable[Rows]) -> int:
    """Rows of all groups together."""
    return sum(group.rows for group in groups)


def hold_out(groups: Sequence[Rows], count: int) -> tuple[list[Rows], list[Rows]]:
    """(the rest, the last `count` rows); at most a tenth of all is held out."""
    count = min(count, count_rows(groups) // 10)
    rest, held = list(groups), list[Rows]()
    while count:
        last = rest.pop()
        taken = min(count, last.rows)
        held.insert(0, replace(last, start=last.start + last.rows - taken, rows=taken))
        if taken < last.rows:
            rest.append(replace(last, rows=last.rows - taken))
        count -= taken
    return rest, held
