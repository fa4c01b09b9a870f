"""One URI, one filesystem: a local folder, `s3://bucket/prefix`, or any S3-compatible endpoint (s3.py says how)."""

import asyncio
import errno
import fcntl
import hashlib
import os
import posixpath
import re
import stat as stat_modes
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import obstore
import pyarrow as pa
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from obstore.exceptions import BaseError
from pyarrow import fs

from dtn_ray import local_files, local_writes
from dtn_ray.errors import UserError
from dtn_ray.redact import HIDDEN
from dtn_ray.refusals import Refused, refused
from dtn_ray.s3 import advice as _advice
from dtn_ray.s3 import client as s3_client
from dtn_ray.s3 import plain as _plain
from dtn_ray.s3 import store as _store
from dtn_ray.s3_files import S3Files

LISTING = pa.schema(
    {
        "key": pa.string(),  # relative to the folder, with / between components
        "version": pa.string(),  # other for other content: the ETag on S3, size and time of change of a local file
        "size": pa.int64(),  # bytes
        "modified": pa.timestamp("us", "UTC"),
        "storage_class": pa.string(),  # S3's, with " (restored)" where an archived object can be read; null: not known
    }
)
ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")  # storage classes whose objects must be restored; GLACIER_IR's need not
PAGE = 1000  # S3 gives no more keys at once
FOLDER_PAGES = 10  # of a folder with more entries, the names are cut
BODY_ATTEMPTS = 3
BODY_BROKE_OFF = (ResponseStreamingError, IncompleteReadError, ReadTimeoutError)
HEADERS = {"IfNoneMatch": "If-None-Match", "IfMatch": "If-Match"}
SWAP_PAUSE = 0.2  # seconds
COPIED_AT_ONCE = 8  # files of a folder
LAST = chr(0x10FFFF)  # the last character: what begins with a character lies before it and this
S3 = re.compile(r"s3[an]?://", re.IGNORECASE)  # s3a:// and s3n://, as Hadoop has it, are the same


def is_s3(uri: str) -> bool:
    """Whether a URI names a bucket or what is in it."""
    return S3.match(uri) is not None


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem a URI lives on, and its path there, for files that are read in parts, and trainings.

    Raises UserError for a URI that names no place, as `absolute` does, and for keys that no filesystem has.
    """
    if not is_s3(uri):
        return fs.LocalFileSystem(), absolute(uri)
    path = absolute(uri).removeprefix("s3://").strip("/")
    _, key = bucket_and_key(f"s3://{path}")
    if key and not _plain(key):
        raise UserError(
            f"{uri}: an empty folder name (//), one of dots alone or a control character; photos can be read from "
            "there, but nothing else is kept or read there"
        )
    return fs.PyFileSystem(S3Files()), path


def absolute(uri: str) -> str:
    """The same place as s3://bucket/key, or as an absolute local path, which other processes understand too.

    Raises UserError for another scheme, a bucket without a name, and a file:// URI of another machine.
    """
    if is_s3(uri):
        bucket, key = bucket_and_key(uri)
        if not bucket:
            raise UserError(f"{uri}: no bucket; give s3://bucket/prefix")
        return f"s3://{bucket}/{key}" if key else f"s3://{bucket}"
    return os.path.realpath(local_path(uri))


def local_path(uri: str) -> str:
    """The local path that a URI means, its links as they are. Raises UserError as `absolute` does."""
    if "://" in uri and not (_is_file_uri(uri) or uri.startswith("/")):
        raise UserError(f"{uri}: unknown scheme; give a local path or s3://bucket/prefix")
    return os.path.expanduser(_local(uri))


def _is_file_uri(uri: str) -> bool:
    return uri[:6].lower() == "file:/"


def _local(uri: str) -> str:
    """The path of a file:// URI, in which %20 stands for a space; anything else as it is."""
    if not _is_file_uri(uri):
        return uri
    path = uri[5:]
    if path.startswith("//"):
        host, _, path = path[2:].partition("/")
        if host not in ("", "localhost"):
            raise UserError(f"{uri}: a file of {host}; give file:///PATH, with three slashes, or a local path")
        path = f"/{path}"
    return unquote(path)


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Of a URI of S3; the key may be empty, or begin with a slash. Raises UserError where it holds credentials."""
    bucket, _, key = uri[uri.index("://") + 3 :].partition("/")
    if "@" in bucket or (":" in bucket and not bucket.startswith("arn:")):
        place = uri.rpartition("@")[2] if "@" in uri else "…"  # a secret key may hold a slash
        raise UserError(
            f"s3://{HIDDEN}@{place}: no credentials in a URI, where others see them: give s3://bucket/prefix, and set "
            "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return bucket, key


def join(uri: str, *names: str) -> str:
    """Appends path components to a URI; those of file:// become a path, since a % in a name stands for itself."""
    return posixpath.join(_plain_uri(uri), *names)


def child(uri: str, key: str) -> str:
    """A file below a folder, by its key in LISTING; unlike for `join`, a key may begin with a slash."""
    return f"{_plain_uri(uri).rstrip('/')}/{key if is_s3(uri) else local_files.name_of(key)}"


def _plain_uri(uri: str) -> str:
    return S3.sub("s3://", uri, count=1) if is_s3(uri) else _local(uri)


def is_folder(uri: str) -> bool:
    """Whether files lie below a URI, or it is a local folder; an object may have the same name.

    Raises UserError if the store refuses.
    """
    if not is_s3(uri):
        return _kind_of_local(uri) == fs.FileType.Directory
    bucket, prefix = bucket_and_key(absolute(uri).rstrip("/") + "/")
    with _readable(uri):
        found = s3_client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return bool(found.get("Contents"))


def is_file(uri: str) -> bool:
    """Whether a URI names a file or an object. Raises UserError if the store refuses."""
    if not is_s3(uri):
        return _kind_of_local(uri) == fs.FileType.File
    bucket, key = bucket_and_key(absolute(uri))
    if not key or key.endswith("/"):
        return False
    with _readable(uri):
        try:
            s3_client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("NoSuchKey", "404"):
                raise
            return False
    return True


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ClientError, BotoCoreError) as error:
        raise UserError(f"{uri}: the store cannot be read: {error}. {_advice()}") from error


def _kind_of_local(uri: str) -> fs.FileType:
    try:
        found = os.stat(local_path(uri))
    except (FileNotFoundError, NotADirectoryError):
        return fs.FileType.NotFound
    except (OSError, ValueError) as error:
        raise UserError(f"{uri}: cannot be read: {_words(error)}") from error
    if stat_modes.S_ISDIR(found.st_mode):
        return fs.FileType.Directory
    return fs.FileType.File if stat_modes.S_ISREG(found.st_mode) else fs.FileType.Unknown


def _words(error: Exception) -> str:
    """What is wrong with a local file, without its path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def exists(uri: str) -> bool:
    """Whether a file or folder is there. Raises UserError if the store refuses."""
    return is_file(uri) or is_folder(uri)


def list_keys(uri: str) -> list[str]:
    """The keys of all files below a small folder or prefix, in order; none where it is absent."""
    return [key for page in list_pages(uri) for key in page["key"].to_pylist()]


@dataclass(frozen=True)
class Stretch:
    """Files below a folder or prefix that are listed by themselves; by default all."""

    folder: str = ""
    """Relative to the prefix; empty, or ending in a slash."""
    after: str | None = None
    """None: all files below `folder`. Else those whose next component lies after this (empty: any) …"""
    until: str | None = None
    """… up to and with this, but …"""
    apart: frozenset[str] = frozenset()
    """… without these folders in it, which are stretches of their own."""

    def holds(self, name: str) -> bool:
        """Whether a component lies between the bounds."""
        return (not self.after or name > self.after) and (self.until is None or name <= self.until)


def list_pages(
    uri: str, stretch: Stretch | None = None, odd: local_files.Odd | None = None, out: str | None = None
) -> Iterator[pa.Table]:
    """The files below a folder or prefix, or a stretch of them, as tables of the schema LISTING, in the store's order.

    What is no file in a local folder, cannot be read, or is a link into `out`, the job's own results, is told to `odd`.
    Holds a page at a time (of a local folder, the names in it). Raises UserError if the store refuses, and without
    `odd` for any folder that cannot be read.
    """
    try:
        yield from _pages_s3(uri, stretch or Stretch()) if is_s3(uri) else _pages_local(uri, odd, out)
    except (OSError, ValueError, ClientError, BotoCoreError) as error:
        raise _not_listed(uri, error) from error


def _not_listed(uri: str, error: Exception) -> UserError:
    if is_s3(uri):
        return UserError(f"{uri}: cannot be listed: {error}. {_advice()}")
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    return UserError(f"{uri}: cannot be listed: {_words(error)}{where}")


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
    """Whether a listed object is more than the marker of a folder, whose name ends in a slash and which is empty."""
    return not listed["Key"].endswith("/") or bool(listed.get("Size"))


def _list(bucket: str, prefix: str, after: str = "", folders_apart: bool = False) -> Iterator[dict[str, Any]]:
    options = ({"StartAfter": prefix + after} if after else {}) | ({"Delimiter": "/"} if folders_apart else {})
    for page in s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **options):
        if any(each.get("StorageClass") in ARCHIVES for each in page.get("Contents", ())):
            # The same page with what is restored. Stores without archives are never asked, and need not know the word.
            token = {"ContinuationToken": page["ContinuationToken"]} if "ContinuationToken" in page else {}
            page = s3_client().list_objects_v2(
                Bucket=bucket, Prefix=prefix, OptionalObjectAttributes=["RestoreStatus"], **options, **token
            )
        yield page


def _storage_class(listed: Mapping[str, Any]) -> str | None:
    """The storage class of an object as a listing tells it; with " (restored)" while there is a copy to be read."""
    expiry = listed.get("RestoreStatus", {}).get("RestoreExpiryDate")
    restored = expiry is not None and expiry > datetime.now(UTC)
    return f"{listed['StorageClass']} (restored)" if restored else listed.get("StorageClass")


def _pages_local(uri: str, odd: local_files.Odd | None, out: str | None) -> Iterator[pa.Table]:
    files = local_files.walk(local_path(uri), odd, (out and not is_s3(out) and local_path(out)) or None)
    while page := list(islice(files, PAGE)):
        # Times are numbers here, since Python's end with the year 9999.
        yield pa.Table.from_pylist([dict(zip(LISTING.names[:4], file, strict=True)) for file in page], LISTING)


def stretches(uri: str, parts: int) -> list[Stretch]:
    """Stretches that together are all files below a prefix, to be listed side by side: about `parts` or more, in order.

    One for a local folder. Folders on S3 are opened until there are enough, and one with very many entries is cut by
    their names. A store may list a/1 before a-1, as a tree of folders does
    (SeaweedFS), or after it, as the bytes say (Amazon's): nothing here depends on it.
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
        raise UserError(f"{uri}: cannot be listed: {error}. {_advice()}") from error
    return sorted([*found, *map(Stretch, unopened)], key=lambda stretch: (stretch.folder, stretch.after or ""))


def _open_folder(uri: str, folder: str, parts: int) -> tuple[list[Stretch], list[str]]:
    """Stretches of the entries of a folder, and the folders in it that are not among them."""
    bucket, prefix = bucket_and_key(uri.rstrip("/") + "/")
    pages = list(islice(_list(bucket, prefix + folder, folders_apart=True), FOLDER_PAGES + 1))
    if len(pages) <= FOLDER_PAGES:
        names = {each["Prefix"][len(prefix + folder) : -1] for page in pages for each in page.get("CommonPrefixes", ())}
        files = Stretch(folder, "", None, frozenset(names)) if names else Stretch(folder)
        return [files], [f"{folder}{name}/" for name in sorted(names)]
    cuts = _cuts(bucket, prefix + folder, parts)
    # Where these folders come in the order of names, before or after the cut, differs from store to store.
    apart = frozenset(cut[:i] for cut in cuts for i in range(1, len(cut) + 1) if i == len(cut) or cut[i] < "/")
    inside = [Stretch(folder, after, until, apart) for after, until in zip(["", *cuts], [*cuts, None], strict=True)]
    return inside + [Stretch(f"{folder}{name}/") for name in sorted(apart)], []


def _cuts(bucket: str, folder: str, parts: int) -> list[str]:
    """Beginnings of the names in a folder, in order, that cut them into about `parts` or more."""

    def longer(stem: str) -> list[tuple[str, bool]]:
        """The beginnings one character longer than `stem`, and whether they have more than half a page of names."""
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
            counts[characters[-1]] = PAGE  # how many more there are, nobody knows
            after = characters[-1] + LAST

    large, small = [""], list[str]()
    with ThreadPoolExecutor(32) as pool:
        while large and len(large) + len(small) < parts:
            found = [each for children in pool.map(longer, large) for each in children]
            large = [stem for stem, is_large in found if is_large]
            small += [stem for stem, is_large in found if not is_large]
    return sorted({*large, *small} - {""})


def read_bytes(uri: str) -> bytes:
    """The whole content of a file. Raises OSError where it is absent or the store fails, of S3 a Refused."""
    if not is_s3(uri):
        return local_files.read(local_path(uri))
    bucket, key = bucket_and_key(uri)
    try:
        if _plain(key):
            return obstore.get(_store(bucket), key).bytes().to_bytes()
        return s3_client().get_object(Bucket=bucket, Key=key)["Body"].read()
    except (FileNotFoundError, ClientError, BotoCoreError, BaseError) as error:
        raise refused(uri, error) from error


def read_many(uris: Sequence[str]) -> list[bytes | Refused]:
    """The content of each of many files, or why it cannot be read; objects of S3 are fetched at the same time."""

    def read(uri: str) -> bytes | Refused:
        try:
            return read_bytes(uri)
        except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have, a link to itself
            return refused(uri, error)

    async def fetch(uri: str) -> bytes | Refused:
        bucket, key = bucket_and_key(uri)
        if not _plain(key):
            return await asyncio.to_thread(read, uri)
        try:
            return (await (await obstore.get_async(_store(bucket), key)).bytes_async()).to_bytes()
        except (OSError, ValueError, BaseError) as error:
            return refused(uri, error)

    async def fetch_all() -> list[bytes | Refused]:
        return await asyncio.gather(*map(fetch, uris))

    return asyncio.run(fetch_all()) if _all_s3(uris) else list(map(read, uris))


def _all_s3(uris: Sequence[str]) -> bool:
    return all(map(is_s3, uris))


@dataclass(frozen=True)
class NewFile:
    """A file to be written."""

    uri: str
    content: bytes
    content_type: str | None = None
    """For S3 alone, as is `metadata`."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """ASCII."""
    root: str | None = None
    """The folder above it that the user named, as a URI: below this, no link is followed. By default the folder that it
    lies in."""


def write_bytes(uri: str, content: bytes, content_type: str | None = None, root: str | None = None) -> None:
    """Writes a file whole: a reader sees the old content or the new, never a part. `root`: as of NewFile.

    Raises UserError if refused, and where a local folder between `root` and the file is a link.
    """
    try:
        _write(NewFile(uri, content, content_type, root=root))
    except Refused as error:
        raise UserError(f"{uri}: cannot be written: {str(error).removeprefix(f'{uri}: ')}") from error


def write_many(files: Sequence[NewFile], scratch: str | None = None) -> list[Refused | None]:
    """Writes files as `write_bytes` does, objects of S3 at the same time; for each, why it cannot be written.

    A local file is first written beside its place, or in the folder `scratch` of the same filesystem.
    """

    def write(file: NewFile) -> Refused | None:
        try:
            _write(file, scratch)
        except Refused as error:
            return error
        return None

    async def send(file: NewFile) -> Refused | None:
        bucket, key = bucket_and_key(file.uri)
        if not _plain(key):
            return await asyncio.to_thread(write, file)
        try:
            await obstore.put_async(_store(bucket), key, file.content, attributes=_attributes(file))
        except (OSError, ValueError, BaseError) as error:
            return refused(file.uri, error, writing=True)
        return None

    async def send_all() -> list[Refused | None]:
        return await asyncio.gather(*map(send, files))

    return asyncio.run(send_all()) if _all_s3([file.uri for file in files]) else list(map(write, files))


def _write(file: NewFile, scratch: str | None = None) -> None:
    if is_s3(file.uri):
        _put(file)
        return
    try:
        local_writes.write(*_below(file.uri, file.root), file.content, scratch)
    except (OSError, ValueError) as error:
        raise refused(file.uri, error, writing=True) from error


def _below(uri: str, root: str | None) -> tuple[str, str]:
    """Of a local file: the folder that the user named (see NewFile), and the path below it."""
    path = local_path(uri)
    if root is None:
        folder, name = os.path.split(path)
        return folder or ".", name
    folder = local_path(root).rstrip("/")
    if not path.startswith(f"{folder}/"):
        raise ValueError(f"{uri} does not lie below {root}")
    return folder or "/", path.removeprefix(f"{folder}/").lstrip("/")


def _put(file: NewFile) -> None:
    bucket, key = bucket_and_key(file.uri)
    try:
        if _plain(key):
            obstore.put(_store(bucket), key, file.content, attributes=_attributes(file))
        else:
            headers = {"ContentType": file.content_type} if file.content_type else {}
            metadata = dict(file.metadata)
            s3_client().put_object(Bucket=bucket, Key=key, Body=file.content, Metadata=metadata, **headers)
    except (OSError, ClientError, BotoCoreError, BaseError) as error:
        raise refused(file.uri, error, writing=True) from error


def _attributes(file: NewFile) -> dict[str, str]:
    return ({"Content-Type": file.content_type} if file.content_type else {}) | dict(file.metadata)


def stat(uri: str) -> tuple[str | None, int, int | None]:
    """Version, size and time of change (µs since 1970) of one file, as a listing tells them.

    Raises OSError as `read_bytes` does.
    """
    if not is_s3(uri):
        return local_files.stat(local_path(uri))
    bucket, key = bucket_and_key(uri)
    try:
        head = s3_client().head_object(Bucket=bucket, Key=key)
    except (ClientError, BotoCoreError) as error:
        raise refused(uri, error) from error
    modified = head.get("LastModified")
    since = modified and (modified - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return head.get("ETag", "").strip('"') or None, head["ContentLength"], since


@dataclass(frozen=True)
class Versioned:
    """A small file that changes by `compare_and_swap`, as it was read."""

    content: bytes
    """Empty where the file is absent."""
    version: str | None
    """None where the file is absent."""
    modified: float
    """When it was last written, in seconds since 1970 by the store's clock; 0 where it is absent."""
    now: float
    """The store's clock when it answered; S3 tells whole seconds. Our own clock where a store does not tell."""


class NoConditionalWrites(UserError):
    """A store that cannot write a file on the condition that nobody else has meanwhile."""


def read_versioned(uri: str) -> Versioned:
    """A small file with what `compare_and_swap` has to know of it. Raises UserError if the store refuses."""
    if is_s3(uri):
        return _read_versioned_s3(uri)
    path = Path(local_path(uri))
    now = _clock(path.parent)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat_modes.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a file")
            content = file.read()
            return Versioned(content, _digest(content), found.st_mtime, now)
    except OSError as error:
        # A link is nobody's file: it is replaced, and what it leads to stays.
        if isinstance(error, FileNotFoundError) or local_writes.is_link(str(path)):
            return Versioned(b"", None, 0, now)
        raise UserError(f"{uri}: cannot be read: {_words(error)}") from error


def _read_versioned_s3(uri: str) -> Versioned:
    bucket, key = bucket_and_key(uri)
    left = BODY_ATTEMPTS
    while True:
        left -= 1
        try:
            found = s3_client().get_object(Bucket=bucket, Key=key)
            content, version = found["Body"].read(), _bare(found["ETag"])
            return Versioned(content, version, found["LastModified"].timestamp(), _date(found))
        except BODY_BROKE_OFF as error:  # boto3 itself repeats only what fails before the body
            if not left:
                raise UserError(f"{uri}: cannot be read: {error}. {_advice()}") from error
        except (OSError, ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return Versioned(b"", None, 0, _date(error.response))
            raise UserError(f"{uri}: cannot be read: {error}. {_advice()}") from error


def _clock(folder: Path) -> float:
    """The clock of a folder's file system, which may be another machine's; our own where it cannot be asked."""
    try:
        os.utime(folder)
        return folder.stat().st_mtime
    except OSError:
        return time.time()


def _date(answer: Mapping[str, Any]) -> float:
    """The store's clock by an answer's header Date."""
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return time.time()


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def compare_and_swap(uri: str, version: str | None, content: bytes, conditional: bool = True) -> str | None:
    """Writes a file if it still is of that version (None: absent); returns its new version, or None if it is not.

    By S3's conditional writes, and by a lock on the local folder; with `conditional` False by a look at the version
    just before the write, which two writers at the same moment both pass. No two contents written to one file may be
    the same: so a write whose answer was lost is known by its content. Raises NoConditionalWrites where the store has
    none, UserError if it refuses, be it that it does not replace the very version that it has.
    """
    if not conditional:
        if read_versioned(uri).version != version:
            return None
        return _put_if(uri, {}, content) if is_s3(uri) else _replace(uri, content)
    return _swap_s3(uri, version, content) if is_s3(uri) else _swap_local(uri, version, content)


def _swap_s3(uri: str, version: str | None, content: bytes) -> str | None:
    # Ceph compares the header with the bare ETag; a store may as well do so with the quoted one, as HTTP writes it.
    conditions = [{"IfMatch": version}, {"IfMatch": f'"{version}"'}] if version else [{"IfNoneMatch": "*"}]
    for attempt in range(2):  # twice, since a write beside this one may be refused like this, and then fail
        time.sleep(SWAP_PAUSE * attempt)
        for condition in conditions:
            written = _put_if(uri, condition, content)
            if written:
                return written
            found = read_versioned(uri)
            if found.version and found.content == content:
                return found.version
            if found.version != version:
                return None
    state = f"is still of the version {version}" if version else "is absent"
    raise UserError(f"{uri}: the store refuses to write this file, as if another had changed it, though it {state}")


def _put_if(uri: str, condition: dict[str, str], content: bytes) -> str | None:
    """The version written; None if the store says that the condition does not hold."""
    bucket, key = bucket_and_key(uri)
    try:
        return _bare(s3_client().put_object(Bucket=bucket, Key=key, Body=content, **condition)["ETag"])
    except ClientError as error:
        status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
        if condition and (status == 501 or code == "NotImplemented"):
            text = str(error).rstrip(".")
            raise NoConditionalWrites(f"{uri}: the store has no conditional writes: {text}") from error
        # 412, and 304 of old MinIOs: it does not hold; 409: another write came in between; 404: there is nothing that
        # could match.
        if condition and status in (304, 404, 409, 412) and code != "NoSuchBucket":
            return None
        raise UserError(f"{uri}: cannot be written: {error}. {_advice()}") from error
    except BotoCoreError as error:
        raise UserError(f"{uri}: cannot be written: {error}. {_advice()}") from error


def require_conditional_writes(uri: str, content: bytes) -> None:
    """Raises NoConditionalWrites where a store takes every write to an existing file, whatever its condition.

    `content` stands in the file then. Nothing to ask of a local folder. Raises UserError if the store refuses.
    """
    if not is_s3(uri):
        return
    for condition in ({"IfNoneMatch": "*"}, {"IfMatch": "0" * 32}):
        if _put_if(uri, condition, content):
            raise NoConditionalWrites(
                f"{uri}: the store has no conditional writes: it ignores {HEADERS[next(iter(condition))]}"
            )


def _swap_local(uri: str, version: str | None, content: bytes) -> str | None:
    folder = Path(local_path(uri)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{uri}: cannot be written: {error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed, be it by the process's end
        except OSError as error:
            raise NoConditionalWrites(f"{uri}: the file system has no locks (flock): {error}") from error
        return _replace(uri, content) if read_versioned(uri).version == version else None
    finally:
        os.close(descriptor)


def _replace(uri: str, content: bytes) -> str:
    write_bytes(uri, content)
    return _digest(content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def delete(uri: str, root: str | None = None) -> None:
    """Deletes a file, of a local link the link; one that is gone already is no error. `root`: as of NewFile.

    Raises UserError if the store refuses, and where a local folder between `root` and the file is a link.
    """
    try:
        if is_s3(uri):
            bucket, key = bucket_and_key(uri)
            s3_client().delete_object(Bucket=bucket, Key=key)  # pyarrow would leave an empty object for the folder
        else:
            local_writes.delete(*_below(uri, root))
    except (OSError, ValueError, ClientError, BotoCoreError) as error:
        raise UserError(f"{uri}: cannot be deleted: {error}") from error


def remove_empty_folders(uri: str, name: re.Pattern[str], root: str) -> None:
    """Removes those folders in a local folder below `root` that are called so and empty. On S3 there are none."""
    if is_s3(uri):
        return
    with suppress(OSError):
        for each in filter(name.fullmatch, os.listdir(local_path(uri))):
            local_writes.remove_folder(*_below(join(uri, each), root))


def require_no_link(uri: str) -> None:
    """Raises UserError where a local folder to be written into is a link."""
    if not is_s3(uri) and local_writes.is_link(local_path(uri)):
        raise UserError(
            f"{uri}: a link stands in the place of this folder, and nothing is written or deleted through links: "
            "replace it with a folder, or choose another OUT"
        )


def copy_folder(source: str, destination: str, root: str | None = None, *, overwrite: bool = True) -> None:
    """Copies all files of one folder URI into another. `root`: as of NewFile, for `destination`.

    `overwrite` False, which a local `destination` alone knows: files that are there stay as they are. Raises OSError,
    among others where a local folder between `root` and a copy is a link.
    """
    from_fs, from_path = resolve(source)
    if is_s3(destination):
        to_fs, to_path = resolve(destination)
        fs.copy_files(from_path, to_path, source_filesystem=from_fs, destination_filesystem=to_fs)
        return
    above, folder = _below(destination, root)

    def copy(path: str) -> None:
        name = path.removeprefix(from_path).lstrip("/")
        if not overwrite and exists(join(destination, name)):
            return
        with from_fs.open_input_stream(path, compression=None) as file:  # by default, a .gz would be decompressed
            local_writes.copy(above, f"{folder}/{name}", file)

    found = from_fs.get_file_info(fs.FileSelector(from_path, recursive=True))
    with ThreadPoolExecutor(COPIED_AT_ONCE) as pool:
        list(pool.map(copy, [each.path for each in found if each.type == fs.FileType.File]))
