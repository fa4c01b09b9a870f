"""Whether a URI names a file, a folder or nothing, and on which file system."""

import os
import stat as stat_modes
from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
)
from pyarrow import fs

from dtn_ray.errors import UserError
from dtn_ray.storage import local_writes
from dtn_ray.storage.s3 import advice, plain
from dtn_ray.storage.s3 import client as s3_client
from dtn_ray.storage.s3_files import S3Files
from dtn_ray.storage.uris import absolute, bucket_and_key, is_s3, local_path


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow filesystem of a URI, and its path there; used to read parts of files, and by Ray Train.

    Raises UserError for an invalid URI, as `absolute` does, and for keys that pyarrow's filesystems do not support.
    """
    if not is_s3(uri):
        return fs.LocalFileSystem(), absolute(uri)
    path = absolute(uri).removeprefix("s3://").strip("/")
    _, key = bucket_and_key(f"s3://{path}")
    if key and not plain(key):
        raise UserError(
            f"{uri}: a folder name is empty (//), consists of dots only or has a control character; photos can be read "
            "from such a place, but nothing else can be read or written there"
        )
    return fs.PyFileSystem(S3Files()), path


def is_folder(uri: str) -> bool:
    """Whether files lie below a URI, or it is a local folder; an object may have the same name.

    Raises UserError if the store refuses.
    """
    if not is_s3(uri):
        return _kind_of_local(uri) == fs.FileType.Directory
    bucket, prefix = bucket_and_key(absolute(uri).rstrip("/") + "/")
    with readable(uri):
        found = s3_client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return bool(found.get("Contents"))


def is_file(uri: str) -> bool:
    """Whether a URI names a file or an object. Raises UserError if the store refuses."""
    if not is_s3(uri):
        return _kind_of_local(uri) == fs.FileType.File
    bucket, key = bucket_and_key(absolute(uri))
    if not key or key.endswith("/"):
        return False
    with readable(uri):
        try:
            s3_client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("NoSuchKey", "404"):
                raise
            return False
    return True


@contextmanager
def readable(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ClientError, BotoCoreError) as error:
        raise UserError(f"{uri}: the store cannot be read: {error}. {advice()}") from error


def _kind_of_local(uri: str) -> fs.FileType:
    try:
        found = os.stat(local_path(uri))
    except (FileNotFoundError, NotADirectoryError):
        return fs.FileType.NotFound
    except (OSError, ValueError) as error:
        raise UserError(f"{uri}: cannot be read: {words_of(error)}") from error
    if stat_modes.S_ISDIR(found.st_mode):
        return fs.FileType.Directory
    return fs.FileType.File if stat_modes.S_ISREG(found.st_mode) else fs.FileType.Unknown


def words_of(error: Exception) -> str:
    """The reason of a local file's error, without its path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def exists(uri: str) -> bool:
    """Whether a file or folder exists. Raises UserError if the store refuses."""
    return is_file(uri) or is_folder(uri)


def require_no_link(uri: str) -> None:
    """Raises UserError if a local folder to be written into is a link."""
    if not is_s3(uri) and local_writes.is_link(local_path(uri)):
        raise UserError(
            f"{uri}: this folder is a link, and nothing is written or deleted through links: replace it with a folder, "
            "or choose another OUT"
        )
