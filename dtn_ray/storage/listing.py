"""The files below a folder or prefix, page by page."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pyarrow as pa
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
)

from dtn_ray.errors import UserError
from dtn_ray.storage import local_files
from dtn_ray.storage.places import words_of
from dtn_ray.storage.s3 import advice
from dtn_ray.storage.s3 import client as s3_client
from dtn_ray.storage.uris import bucket_and_key, is_s3, local_path

LISTING = pa.schema(
    {
        "key": pa.string(),  # relative to the folder, with / between components
        "version": pa.string(),  # changes with the content: the ETag on S3, size and time of change of a local file
        "size": pa.int64(),  # bytes
        "modified": pa.timestamp("us", "UTC"),
        "storage_class": pa.string(),  # S3's, with " (restored)" where an archived object can be read; null: not known
    }
)
ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")  # storage classes whose objects must be restored (not GLACIER_IR)
PAGE = 1000  # the most keys that S3 returns at once
FOLDER_PAGES = 10  # a folder with more pages of entries is divided into ranges of names
LAST = chr(0x10FFFF)  # the last character: every name that begins with c sorts before c + LAST


def list_keys(uri: str) -> list[str]:
    """The keys of all files below a small folder or prefix, in order; an empty list if it is absent."""
    return [key for page in list_pages(uri) for key in page["key"].to_pylist()]


@dataclass(frozen=True)
class Stretch:
    """A part of the files below a folder or prefix, which one task lists; by default all files."""

    folder: str = ""
    """Relative to the prefix; empty, or ending in a slash."""
    after: str | None = None
    """None: all files below `folder`. Otherwise only names in `folder` that sort after this (empty: from the first)."""
    until: str | None = None
    """Only names in `folder` up to and including this; None: to the last."""
    apart: frozenset[str] = frozenset()
    """Names of folders in `folder` that are left out, because they are stretches of their own."""

    def holds(self, name: str) -> bool:
        """Whether a name in `folder` lies between the bounds."""
        return (not self.after or name > self.after) and (self.until is None or name <= self.until)


def list_pages(
    uri: str, stretch: Stretch | None = None, odd: local_files.Odd | None = None, out: str | None = None
) -> Iterator[pa.Table]:
    """The files below a folder or prefix, or a stretch of them, as tables of the schema LISTING, in the store's order.

    `odd` is called for each entry of a local folder that is not a file, cannot be read, or is a link into `out`, the
    job's own results. Holds one page at a time (of a local folder, the names in it). Raises UserError if the store
    refuses and, without `odd`, for any folder that cannot be read.
    """
    try:
        yield from _pages_s3(uri, stretch or Stretch()) if is_s3(uri) else _pages_local(uri, odd, out)
    except (OSError, ValueError, ClientError, BotoCoreError) as error:
        raise not_listed(uri, error) from error


def not_listed(uri: str, error: Exception) -> UserError:
    if is_s3(uri):
        return UserError(f"{uri}: cannot be listed: {error}. {advice()}")
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    return UserError(f"{uri}: cannot be listed: {words_of(error)}{where}")


def _pages_s3(uri: str, stretch: Stretch) -> Iterator[pa.Table]:
    bucket, prefix = bucket_and_key(uri.rstrip("/") + "/")
    folder = prefix + stretch.folder

    def table(objects: list[dict[str, Any]]) -> pa.Table:
        columns = [
            [each["Key"].removeprefix(prefix) for each in objects],
            [each.get("ETag", "").strip('"') or None for each in objects],
            [each.get("Size") for each in objects],
            [each.get("LastModified") for each in objects],
            [_storage_class(each) for each in objects],
        ]
        return pa.table(columns, schema=LISTING)

    if stretch.after is None:
        for page in _list(bucket, folder):
            yield table(list(filter(_is_file, page.get("Contents", ()))))
        return
    for page in _list(bucket, folder, stretch.after, folders_apart=True):
        files = list(filter(_is_file, page.get("Contents", ())))
        found = {each["Prefix"][len(folder) : -1] for each in page.get("CommonPrefixes", ())} - stretch.apart
        yield table([each for each in files if stretch.holds(each["Key"][len(folder) :])])
        for name in sorted(filter(stretch.holds, found)):
            yield from _pages_s3(uri, Stretch(f"{stretch.folder}{name}/"))
        names = {each["Key"][len(folder) :] for each in files} | found
        if stretch.until is not None and max(names, default="") > stretch.until:
            return


def _is_file(listed: Mapping[str, Any]) -> bool:
    """False for the marker of a folder: an empty object whose name ends in a slash."""
    return not listed["Key"].endswith("/") or bool(listed.get("Size"))


def _list(bucket: str, prefix: str, after: str = "", folders_apart: bool = False) -> Iterator[dict[str, Any]]:
    options = ({"StartAfter": prefix + after} if after else {}) | ({"Delimiter": "/"} if folders_apart else {})
    for page in s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **options):
        if any(each.get("StorageClass") in ARCHIVES for each in page.get("Contents", ())):
            # The same page, with the restore status. Stores without archives never receive this option.
            token = {"ContinuationToken": page["ContinuationToken"]} if "ContinuationToken" in page else {}
            page = s3_client().list_objects_v2(
                Bucket=bucket, Prefix=prefix, OptionalObjectAttributes=["RestoreStatus"], **options, **token
            )
        yield page


def _storage_class(listed: Mapping[str, Any]) -> str | None:
    """The storage class of an object in a listing; with " (restored)" while a restored copy can be read."""
    expiry = listed.get("RestoreStatus", {}).get("RestoreExpiryDate")
    restored = expiry is not None and expiry > datetime.now(UTC)
    return f"{listed['StorageClass']} (restored)" if restored else listed.get("StorageClass")


def _pages_local(uri: str, odd: local_files.Odd | None, out: str | None) -> Iterator[pa.Table]:
    files = local_files.walk(local_path(uri), odd, (out and not is_s3(out) and local_path(out)) or None)
    while page := list(islice(files, PAGE)):
        # Times are numbers here, because Python's datetime ends with the year 9999.
        yield pa.Table.from_pylist([dict(zip(LISTING.names[:4], file, strict=True)) for file in page], LISTING)


def stretches(uri: str, parts: int) -> list[Stretch]:
    """Divides the files below a prefix into about `parts` or more stretches, in order, to be listed in parallel.

    A local folder is one stretch. On S3, folders are opened level by level until there are enough stretches; a folder
    with very many entries is divided into ranges of names. Nothing depends on the store's order: a store may list a/1
    before a-1, as a tree of folders (SeaweedFS), or after it, by bytes (Amazon).
    """
    if not is_s3(uri):
        return [Stretch()]
    found, unopened = list[Stretch](), [""]
    try:
        with ThreadPoolExecutor(32) as pool:
            while unopened and len(found) + len(unopened) < parts:
                opened = list(pool.map(lambda folder: _open_folder(uri, folder, parts), unopened))
                found += [stretch for inside, _ in opened for stretch in inside]
                unopened = [folder for _, folders in opened for folder in folders]
    except (OSError, ClientError, BotoCoreError) as error:
        raise UserError(f"{uri}: cannot be listed: {error}. {advice()}") from error
    return sorted([*found, *map(Stretch, unopened)], key=lambda stretch: (stretch.folder, stretch.after or ""))


def _open_folder(uri: str, folder: str, parts: int) -> tuple[list[Stretch], list[str]]:
    """Stretches for the entries of a folder, and the subfolders that these stretches do not cover."""
    bucket, prefix = bucket_and_key(uri.rstrip("/") + "/")
    pages = list(islice(_list(bucket, prefix + folder, folders_apart=True), FOLDER_PAGES + 1))
    if len(pages) <= FOLDER_PAGES:
        names = {each["Prefix"][len(prefix + folder) : -1] for page in pages for each in page.get("CommonPrefixes", ())}
        files = Stretch(folder, "", None, frozenset(names)) if names else Stretch(folder)
        return [files], [f"{folder}{name}/" for name in sorted(names)]
    cuts = _cuts(bucket, prefix + folder, parts)
    # Whether these folders sort before or after the cut differs between stores.
    apart = frozenset(cut[:i] for cut in cuts for i in range(1, len(cut) + 1) if i == len(cut) or cut[i] < "/")
    inside = [Stretch(folder, after, until, apart) for after, until in zip(["", *cuts], [*cuts, None], strict=True)]
    return inside + [Stretch(f"{folder}{name}/") for name in sorted(apart)], []


def _cuts(bucket: str, folder: str, parts: int) -> list[str]:
    """Prefixes of names, sorted, that divide the names in a folder into about `parts` or more ranges."""

    def longer(stem: str) -> list[tuple[str, bool]]:
        """The prefixes one character longer than `stem`; for each, whether it has more than half a page of names."""
        counts, after = dict[str, int](), ""
        while True:
            page = next(_list(bucket, folder + stem, after, folders_apart=True), {})
            entries = [each["Key"] for each in page.get("Contents", ())]
            entries += [each["Prefix"] for each in page.get("CommonPrefixes", ())]
            following = [entry[len(folder + stem) :][:1] for entry in entries]
            characters = sorted(character for character in following if character not in ("", "/"))
            for character in characters:
                counts[character] = counts.get(character, 0) + 1
            if not page.get("IsTruncated") or not characters or characters[-1] + LAST <= after:
                return [(stem + character, count >= PAGE // 2) for character, count in counts.items()]
            counts[characters[-1]] = PAGE  # the page ended within this prefix, so its count is unknown
            after = characters[-1] + LAST

    large, small = [""], list[str]()
    with ThreadPoolExecutor(32) as pool:
        while large and len(large) + len(small) < parts:
            found = [each for children in pool.map(longer, large) for each in children]
            large = [stem for stem, is_large in found if is_large]
            small += [stem for stem, is_large in found if not is_large]
    return sorted({*large, *small} - {""})
