"""One URI, one filesystem: a local folder, `s3://bucket/prefix`, or any S3-compatible endpoint.

Credentials, region and endpoint come from the standard AWS chain and variables (AWS_ENDPOINT_URL, AWS_REGION, …).
"""

import fcntl
import hashlib
import os
import posixpath
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pyarrow import fs

from dtn_ray.errors import UserError


@dataclass(frozen=True)
class File:
    """One file below a folder or prefix, as a listing tells it."""

    key: str
    """Its name relative to the folder, with / between components."""
    version: str
    """Other for other content: the ETag on S3, size and time of change of a local file."""
    size: int
    modified: datetime


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem a URI lives on, and its path there. Raises UserError for a scheme other than s3:// or file://."""
    if uri.startswith("s3://"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return fs.S3FileSystem(endpoint_override=endpoint, region=region), uri.removeprefix("s3://").strip("/")
    if "://" in uri and not uri.startswith("file://"):
        raise UserError(f"{uri}: unknown scheme; give a local path or s3://bucket/prefix")
    return fs.LocalFileSystem(), str(Path(uri.removeprefix("file://")).expanduser().resolve())


def join(uri: str, *names: str) -> str:
    """Appends path components to a URI."""
    return posixpath.join(uri, *names)


def kind(uri: str) -> fs.FileType:
    """Whether a URI is a file, a folder (a prefix with objects) or absent. Raises UserError if the store refuses."""
    filesystem, path = resolve(uri)
    try:
        return filesystem.get_file_info(path).type
    except OSError as error:
        raise UserError(f"{uri}: the store cannot be read: {error}. Check the endpoint and the credentials.") from error


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    return kind(uri) != fs.FileType.NotFound


def list_files(uri: str) -> list[File]:
    """All files below a folder or prefix, sorted by key; none where it is absent.

    Raises UserError if the store refuses.
    """
    try:
        files = _list_s3(uri) if uri.startswith("s3://") else _list_local(uri)
    except (OSError, ClientError, BotoCoreError) as error:
        raise UserError(f"{uri}: cannot be listed: {error}. Check the endpoint and the credentials.") from error
    return sorted(files, key=lambda file: file.key)


def _list_s3(uri: str) -> list[File]:
    bucket, prefix = _bucket_and_key(uri.rstrip("/") + "/")
    pages = s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [
        File(each["Key"].removeprefix(prefix), each["ETag"].strip('"'), each["Size"], each["LastModified"])
        for page in pages
        for each in page.get("Contents", ())
        if not each["Key"].endswith("/")  # the markers of folders
    ]


def _list_local(uri: str) -> list[File]:
    filesystem, root = resolve(uri)
    found = filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    return [
        File(
            posixpath.relpath(info.path, root),
            f"{info.size}-{info.mtime_ns}",
            info.size,
            datetime.fromtimestamp(info.mtime_ns / 1e9, UTC),
        )
        for info in found
        if info.type == fs.FileType.File
    ]


def s3_client() -> Any:
    """boto3's client for what pyarrow does not do: ETags, conditional writes, keys with empty components."""
    return _s3_client(tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))))


@lru_cache
def _s3_client(variables: tuple[tuple[str, str], ...]) -> Any:
    """One client for each setting of the variables: it is slow to make and safe to share among threads."""
    endpoint = any(name.startswith("AWS_ENDPOINT_URL") for name, _ in variables)
    config = Config(
        retries={"mode": "standard", "max_attempts": 5},
        max_pool_connections=64,
        request_checksum_calculation="when_required",  # other stores than Amazon's need not know the newer ones
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    return boto3.Session().client("s3", config=config)


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def read_bytes(uri: str) -> bytes:
    """The whole content of a file. Raises OSError where it is absent or the store fails."""
    if uri.startswith("s3://"):
        bucket, key = _bucket_and_key(uri)
        try:
            return s3_client().get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            absent = error.response["Error"]["Code"] in ("NoSuchKey", "404")
            raise (FileNotFoundError if absent else OSError)(f"{uri}: {error}") from error
        except BotoCoreError as error:
            raise OSError(f"{uri}: {error}") from error
    filesystem, path = resolve(uri)
    with filesystem.open_input_file(path) as file:
        return file.read()


def write_bytes(uri: str, content: bytes) -> None:
    """Writes a file whole: a reader sees the old content or the new, never a part."""
    filesystem, path = resolve(uri)
    local = isinstance(filesystem, fs.LocalFileSystem)
    target = f"{path}.{os.getpid()}.partial" if local else path
    try:
        filesystem.create_dir(posixpath.dirname(path), recursive=True)
        with filesystem.open_output_stream(target) as stream:
            stream.write(content)
        if local:
            filesystem.move(target, path)
    except OSError as error:
        raise UserError(f"{uri}: cannot be written: {error}") from error


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
        raise UserError(f"{uri}: cannot be read: {error}") from error


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
            raise UserError(f"{uri}: cannot be written: {error}") from error
        except BotoCoreError as error:
            raise UserError(f"{uri}: cannot be written: {error}") from error
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
    filesystem, path = resolve(uri)
    try:
        filesystem.delete_file(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{uri}: cannot be deleted: {error}") from error


def copy_folder(source: str, destination: str) -> None:
    """Copies all files of one folder URI into another."""
    (from_fs, from_path), (to_fs, to_path) = resolve(source), resolve(destination)
    to_fs.create_dir(to_path, recursive=True)
    fs.copy_files(from_path, to_path, source_filesystem=from_fs, destination_filesystem=to_fs)
