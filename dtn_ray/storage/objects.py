"""Reads, writes, deletes and copies files and objects."""

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import obstore
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
)
from obstore.exceptions import BaseError
from pyarrow import fs

from dtn_ray.errors import UserError
from dtn_ray.storage import local_files, local_writes
from dtn_ray.storage.places import exists, resolve
from dtn_ray.storage.refusals import Refused, refused
from dtn_ray.storage.s3 import client as s3_client
from dtn_ray.storage.s3 import plain, store
from dtn_ray.storage.uris import bucket_and_key, is_s3, join, local_path

COPIED_AT_ONCE = 8  # files of a folder


def read_bytes(uri: str) -> bytes:
    """The whole content of a file. Raises OSError (for S3, Refused) if it is absent or the store fails."""
    if not is_s3(uri):
        return local_files.read(local_path(uri))
    bucket, key = bucket_and_key(uri)
    try:
        if plain(key):
            return obstore.get(store(bucket), key).bytes().to_bytes()
        return s3_client().get_object(Bucket=bucket, Key=key)["Body"].read()
    except (FileNotFoundError, ClientError, BotoCoreError, BaseError) as error:
        raise refused(uri, error) from error


def read_many(uris: Sequence[str]) -> list[bytes | Refused]:
    """The content of each of many files, or why it cannot be read; objects of S3 are fetched at the same time."""

    def read(uri: str) -> bytes | Refused:
        try:
            return read_bytes(uri)
        except (OSError, ValueError, RuntimeError) as error:  # ValueError: an impossible name; RuntimeError: a loop
            return refused(uri, error)

    async def fetch(uri: str) -> bytes | Refused:
        bucket, key = bucket_and_key(uri)
        if not plain(key):
            return await asyncio.to_thread(read, uri)
        try:
            return (await (await obstore.get_async(store(bucket), key)).bytes_async()).to_bytes()
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
    """Only for S3, like `metadata`."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """ASCII."""
    root: str | None = None
    """URI of the folder that the user named, above the file: below it no link is followed. By default the folder that
    contains the file."""


def write_bytes(uri: str, content: bytes, content_type: str | None = None, root: str | None = None) -> None:
    """Writes a file atomically: a reader sees the old content or the new, never a part. `root`: as in NewFile.

    Raises UserError if the store refuses, and if a local folder between `root` and the file is a link.
    """
    try:
        _write(NewFile(uri, content, content_type, root=root))
    except Refused as error:
        raise UserError(f"{uri}: cannot be written: {str(error).removeprefix(f'{uri}: ')}") from error


def write_many(files: Sequence[NewFile], scratch: str | None = None) -> list[Refused | None]:
    """Writes files as `write_bytes` does, objects of S3 concurrently; returns for each file None, or why it failed.

    A local file is first written to a temporary file, in the same folder or in `scratch` of the same filesystem.
    """

    def write(file: NewFile) -> Refused | None:
        try:
            _write(file, scratch)
        except Refused as error:
            return error
        return None

    async def send(file: NewFile) -> Refused | None:
        bucket, key = bucket_and_key(file.uri)
        if not plain(key):
            return await asyncio.to_thread(write, file)
        try:
            await obstore.put_async(store(bucket), key, file.content, attributes=_attributes(file))
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
    """For a local file: the folder that the user named (see NewFile), and the path below it."""
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
        if plain(key):
            obstore.put(store(bucket), key, file.content, attributes=_attributes(file))
        else:
            headers = {"ContentType": file.content_type} if file.content_type else {}
            metadata = dict(file.metadata)
            s3_client().put_object(Bucket=bucket, Key=key, Body=file.content, Metadata=metadata, **headers)
    except (OSError, ClientError, BotoCoreError, BaseError) as error:
        raise refused(file.uri, error, writing=True) from error


def _attributes(file: NewFile) -> dict[str, str]:
    return ({"Content-Type": file.content_type} if file.content_type else {}) | dict(file.metadata)


def stat(uri: str) -> tuple[str | None, int, int | None]:
    """Version, size and time of change (µs since 1970) of one file, as in a listing.

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


def delete(uri: str, root: str | None = None) -> None:
    """Deletes a file, or a local link itself; an absent file is not an error. `root`: as in NewFile.

    Raises UserError if the store refuses, and if a local folder between `root` and the file is a link.
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
    """Removes the empty folders in a local folder below `root` whose names match. S3 has no empty folders."""
    if is_s3(uri):
        return
    with suppress(OSError):
        for each in filter(name.fullmatch, os.listdir(local_path(uri))):
            local_writes.remove_folder(*_below(join(uri, each), root))


def copy_folder(source: str, destination: str, root: str | None = None, *, overwrite: bool = True) -> None:
    """Copies all files of one folder URI into another. `root`: as in NewFile, for `destination`.

    `overwrite` False (only for a local `destination`) keeps existing files. Raises OSError, also if a local folder
    between `root` and a copy is a link.
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
