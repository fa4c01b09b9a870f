"""One URI, one filesystem: a local folder, `s3://bucket/prefix`, or any S3-compatible endpoint.

Credentials, region and endpoint come from the standard AWS chain and variables (AWS_ENDPOINT_URL, AWS_REGION, …).
"""

import asyncio
import fcntl
import hashlib
import os
import posixpath
import re
import stat as stat_modes
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import botocore.utils
import obstore
import pyarrow as pa
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import S3Store
from pyarrow import fs

from dtn_ray import local_files
from dtn_ray.errors import UserError
from dtn_ray.refusals import Refused, refused

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
LAST = chr(0x10FFFF)  # the last character: what begins with a character lies before it and this
VARIABLES = (
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_CONNECT_TIMEOUT", "AWS_READ_TIMEOUT", "AWS_TIMEOUT"),
)


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem a URI lives on, and its path there. Raises UserError for a scheme other than s3:// or file://."""
    if uri.startswith("s3://"):
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        patient = fs.AwsStandardS3RetryStrategy(max_attempts=5)
        filesystem = fs.S3FileSystem(endpoint_override=_endpoint(), region=region, retry_strategy=patient)
        return filesystem, uri.removeprefix("s3://").strip("/")
    return fs.LocalFileSystem(), os.path.realpath(local_path(uri))


def absolute(uri: str) -> str:
    """The same place for processes with other working directories: s3:// as it is, else an absolute local path.

    Raises UserError for a scheme other than s3:// or file://.
    """
    return uri if uri.startswith("s3://") else resolve(uri)[1]


def local_path(uri: str) -> str:
    """The local path that a URI means, its links as they are. Raises UserError for another scheme than file://."""
    if "://" in uri and not uri.startswith(("file://", "/")):
        raise UserError(f"{uri}: unknown scheme; give a local path or s3://bucket/prefix")
    return os.path.expanduser(uri.removeprefix("file://"))


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _advice() -> str:
    """What to do where a store refuses; what its library raises does not always tell which one was asked."""
    endpoint = f"AWS_ENDPOINT_URL, {_endpoint()}" if _endpoint() else "AWS_ENDPOINT_URL, not set: Amazon's"
    return f"Check that the bucket is there, the endpoint ({endpoint}) and the credentials."


def join(uri: str, *names: str) -> str:
    """Appends path components to a URI."""
    return posixpath.join(uri, *names)


def child(uri: str, key: str) -> str:
    """A file below a folder, by its key in LISTING; unlike for `join`, a key may begin with a slash."""
    return f"{uri.rstrip('/')}/{key if uri.startswith('s3://') else local_files.name_of(key)}"


def kind(uri: str) -> fs.FileType:
    """Whether a URI is a file, a folder (a prefix with objects) or absent. Raises UserError if the store refuses."""
    filesystem, path = resolve(uri)
    if not uri.startswith("s3://"):
        return _kind_of_local(uri, path)
    try:
        return filesystem.get_file_info(path).type
    except OSError as error:
        raise UserError(f"{uri}: the store cannot be read: {error}. {_advice()}") from error


def _kind_of_local(uri: str, path: str) -> fs.FileType:
    try:
        found = os.stat(path)
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
    """Whether a file or folder is there."""
    return kind(uri) != fs.FileType.NotFound


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


def list_pages(uri: str, stretch: Stretch | None = None, odd: local_files.Odd | None = None) -> Iterator[pa.Table]:
    """The files below a folder or prefix, or a stretch of them, as tables of the schema LISTING, in the store's order.

    What is no file in a local folder, or cannot be read, is told to `odd`. Holds a page at a time (of a local folder,
    the names in it). Raises UserError if the store refuses, and without `odd` for any folder that cannot be read.
    """
    try:
        yield from _pages_s3(uri, stretch or Stretch()) if uri.startswith("s3://") else _pages_local(uri, odd)
    except (OSError, ValueError, ClientError, BotoCoreError) as error:
        raise _not_listed(uri, error) from error


def _not_listed(uri: str, error: Exception) -> UserError:
    if uri.startswith("s3://"):
        return UserError(f"{uri}: cannot be listed: {error}. {_advice()}")
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    return UserError(f"{uri}: cannot be listed: {_words(error)}{where}")


def _pages_s3(uri: str, stretch: Stretch) -> Iterator[pa.Table]:
    bucket, prefix = _bucket_and_key(uri.rstrip("/") + "/")
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


def _pages_local(uri: str, odd: local_files.Odd | None) -> Iterator[pa.Table]:
    files = local_files.walk(local_path(uri), odd)
    while page := list(islice(files, PAGE)):
        # Times are numbers here, since Python's end with the year 9999.
        yield pa.Table.from_pylist([dict(zip(LISTING.names[:4], file, strict=True)) for file in page], LISTING)


def stretches(uri: str, parts: int) -> list[Stretch]:
    """Stretches that together are all files below a prefix, to be listed side by side: about `parts` or more, in order.

    One for a local folder. Folders on S3 are opened until there are enough, and one with very many entries is cut by
    their names. A store may list a/1 before a-1, as a tree of folders does
    (SeaweedFS), or after it, as the bytes say (Amazon's): nothing here depends on it.
    """
    if not uri.startswith("s3://"):
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
    bucket, prefix = _bucket_and_key(uri.rstrip("/") + "/")
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


def s3_client() -> Any:
    """boto3's client for what pyarrow does not do: ETags, conditional writes, keys with empty components."""
    return _s3_client(_variables())


def _variables() -> tuple[str | None, ...]:
    """What leads to a store, for clients that are kept while it stays; to look through all variables takes longer."""
    return tuple(map(os.environ.get, VARIABLES))


@lru_cache
def _s3_client(variables: tuple[str | None, ...]) -> Any:
    """One client for each setting of the variables: it is slow to make and safe to share among threads."""
    config = Config(
        retries={"mode": "standard", "max_attempts": 6},
        connect_timeout=5,
        read_timeout=20,
        max_pool_connections=64,
        request_checksum_calculation="when_required",  # other stores than Amazon's need not know the newer ones
        s3={"addressing_style": "path" if _endpoint() else "auto"},
    )
    session = botocore.session.get_session()
    # A third of the time of a listing goes into its default, which knows every way to write a date.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    return boto3.Session(botocore_session=session).client("s3", config=config)


def _timestamp(text: str) -> datetime | None:
    """None for what is no date, or lies beyond Python's: one such object must not end a listing."""
    for parse in (datetime.fromisoformat, botocore.utils.parse_timestamp):
        with suppress(ValueError, OverflowError):
            return parse(text)
    return None


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


# About 20 seconds of a store that says "slow down".
RETRIES: Any = {
    "max_retries": 10,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=10), "base": 2},
}


def _timeouts() -> Any:
    """In seconds as obstore writes them; its own variables change them."""
    return {
        "connect_timeout": os.environ.get("AWS_CONNECT_TIMEOUT", "5s"),
        "read_timeout": os.environ.get("AWS_READ_TIMEOUT", "20s"),  # between two bytes, and before the first
        "timeout": os.environ.get("AWS_TIMEOUT", "120s"),  # of a whole request
        "allow_http": True,
    }


def _store(bucket: str) -> S3Store:
    """obstore's client, with retries: a fourth of boto3's work for each object, and free of Python's lock."""
    return _stores(bucket, _variables())


@lru_cache
def _stores(bucket: str, variables: tuple[str | None, ...]) -> S3Store:
    endpoint = _endpoint()
    try:
        # Asked anew well before a role's credentials can end: boto renews them a quarter of an hour before.
        credentials = Boto3CredentialProvider(ttl=timedelta(minutes=10))
    except ValueError as error:
        raise OSError(
            "no AWS credentials: set AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role"
        ) from error
    return S3Store(
        bucket,
        region=s3_client().meta.region_name,
        endpoint=endpoint,
        virtual_hosted_style_request=endpoint is None,
        credential_provider=credentials,
        client_options=_timeouts(),
        retry_config=RETRIES,
    )


def _plain(key: str) -> bool:
    """Whether obstore takes a key as it is: without control characters and components that are empty, `.` or `..`."""
    return not {"", ".", ".."} & set(key.split("/")) and not re.search(r"[\x00-\x1f\x7f]", key)


def read_bytes(uri: str) -> bytes:
    """The whole content of a file. Raises OSError where it is absent or the store fails, of S3 a Refused."""
    if not uri.startswith("s3://"):
        return local_files.read(local_path(uri))
    bucket, key = _bucket_and_key(uri)
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
        bucket, key = _bucket_and_key(uri)
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
    return all(uri.startswith("s3://") for uri in uris)


@dataclass(frozen=True)
class NewFile:
    """A file to be written."""

    uri: str
    content: bytes
    content_type: str | None = None
    """For S3 alone, as is `metadata`."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """ASCII."""


def write_bytes(uri: str, content: bytes, content_type: str | None = None) -> None:
    """Writes a file whole: a reader sees the old content or the new, never a part. Raises UserError if refused."""
    try:
        _write(NewFile(uri, content, content_type))
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
        bucket, key = _bucket_and_key(file.uri)
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
    if file.uri.startswith("s3://"):
        _put(file)
        return
    path = resolve(file.uri)[1]
    partial = f"{scratch or os.path.dirname(path)}/{uuid.uuid4().hex}.partial"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            Path(partial).write_bytes(file.content)
            os.replace(partial, path)
        except OSError:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise refused(file.uri, error, writing=True) from error


def _put(file: NewFile) -> None:
    bucket, key = _bucket_and_key(file.uri)
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
    if not uri.startswith("s3://"):
        return local_files.stat(local_path(uri))
    bucket, key = _bucket_and_key(uri)
    try:
        head = s3_client().head_object(Bucket=bucket, Key=key)
    except (ClientError, BotoCoreError) as error:
        raise refused(uri, error) from error
    modified = head.get("LastModified")
    since = modified and (modified - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return head.get("ETag", "").strip('"') or None, head["ContentLength"], since


def read_versioned(uri: str) -> tuple[bytes, str | None]:
    """A small file and the version to name in `compare_and_swap`; nothing and None where it is absent."""
    try:
        if uri.startswith("s3://"):
            bucket, key = _bucket_and_key(uri)
            found = s3_client().get_object(Bucket=bucket, Key=key)
            return found["Body"].read(), found["ETag"]
        content = read_bytes(uri)
        return content, _digest(content)
    except FileNotFoundError:
        return b"", None
    except (OSError, ClientError, BotoCoreError) as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            return b"", None
        raise UserError(f"{uri}: cannot be read: {error}. {_advice()}") from error


def compare_and_swap(uri: str, version: str | None, content: bytes) -> str | None:
    """Writes a file if it still is of that version (None: absent); returns its new version, or None if it is not.

    By S3's conditional writes, and by a lock on the local folder. No two contents written to one file may be the same.
    Raises UserError if the store refuses.
    """
    if uri.startswith("s3://"):
        bucket, key = _bucket_and_key(uri)
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            return s3_client().put_object(Bucket=bucket, Key=key, Body=content, **condition)["ETag"]
        except ClientError as error:
            # 409: another write came in between; 404: there is nothing that could match.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412):
                return None
            raise UserError(f"{uri}: cannot be written: {error}. {_advice()}") from error
        except BotoCoreError as error:
            raise UserError(f"{uri}: cannot be written: {error}. {_advice()}") from error
    folder = Path(resolve(uri)[1]).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{uri}: cannot be written: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed, be it by the process's end
        if read_versioned(uri)[1] != version:
            return None
        write_bytes(uri, content)
        return _digest(content)
    finally:
        os.close(descriptor)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def delete(uri: str) -> None:
    """Deletes a file; one that is gone already is no error. Raises UserError if the store refuses."""
    try:
        if uri.startswith("s3://"):
            bucket, key = _bucket_and_key(uri)
            s3_client().delete_object(Bucket=bucket, Key=key)  # pyarrow would leave an empty object for the folder
        else:
            Path(resolve(uri)[1]).unlink(missing_ok=True)
    except (OSError, ClientError, BotoCoreError) as error:
        raise UserError(f"{uri}: cannot be deleted: {error}") from error


def remove_empty_folders(uri: str, name: re.Pattern[str]) -> None:
    """Removes those folders in a local folder that are called so and empty, then itself if it is empty.

    On S3 there are none.
    """
    if uri.startswith("s3://"):
        return
    folder = local_path(uri)
    with suppress(OSError):
        for each in filter(name.fullmatch, os.listdir(folder)):
            with suppress(OSError):
                os.rmdir(os.path.join(folder, each))
        os.rmdir(folder)


def copy_folder(source: str, destination: str) -> None:
    """Copies all files of one folder URI into another."""
    (from_fs, from_path), (to_fs, to_path) = resolve(source), resolve(destination)
    to_fs.create_dir(to_path, recursive=True)
    fs.copy_files(from_path, to_path, source_filesystem=from_fs, destination_filesystem=to_fs)
