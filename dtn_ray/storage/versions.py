"""Compare-and-swap on a small file that several processes change, such as a lease."""

import errno
import fcntl
import hashlib
import os
import stat as stat_modes
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from dtn_ray.errors import UserError
from dtn_ray.storage import local_writes
from dtn_ray.storage.objects import write_bytes
from dtn_ray.storage.places import words_of
from dtn_ray.storage.s3 import advice
from dtn_ray.storage.s3 import client as s3_client
from dtn_ray.storage.uris import bucket_and_key, is_s3, local_path

BODY_ATTEMPTS = 3
BODY_BROKE_OFF = (ResponseStreamingError, IncompleteReadError, ReadTimeoutError)
HEADERS = {"IfNoneMatch": "If-None-Match", "IfMatch": "If-Match"}
SWAP_PAUSE = 0.2  # seconds


@dataclass(frozen=True)
class Versioned:
    """The state of a small file that is changed by `compare_and_swap`, as it was read."""

    content: bytes
    """Empty if the file is absent."""
    version: str | None
    """None if the file is absent."""
    modified: float
    """When it was last written, in seconds since 1970 by the store's clock; 0 if it is absent."""
    now: float
    """The store's clock when it answered (S3: whole seconds), or this machine's clock if the store does not send it."""


class NoConditionalWrites(UserError):
    """The store cannot make a write conditional on the file's version."""


def read_versioned(uri: str) -> Versioned:
    """Reads a small file with its version, for `compare_and_swap`. Raises UserError if the store refuses."""
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
        # A link counts as absent: writing replaces it, and its target stays.
        if isinstance(error, FileNotFoundError) or local_writes.is_link(str(path)):
            return Versioned(b"", None, 0, now)
        raise UserError(f"{uri}: cannot be read: {words_of(error)}") from error


def _read_versioned_s3(uri: str) -> Versioned:
    bucket, key = bucket_and_key(uri)
    left = BODY_ATTEMPTS
    while True:
        left -= 1
        try:
            found = s3_client().get_object(Bucket=bucket, Key=key)
            content, version = found["Body"].read(), _bare(found["ETag"])
            return Versioned(content, version, found["LastModified"].timestamp(), _date(found))
        except BODY_BROKE_OFF as error:  # boto3 only repeats requests that fail before the body
            if not left:
                raise UserError(f"{uri}: cannot be read: {error}. {advice()}") from error
        except (OSError, ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return Versioned(b"", None, 0, _date(error.response))
            raise UserError(f"{uri}: cannot be read: {error}. {advice()}") from error


def _clock(folder: Path) -> float:
    """The clock of a folder's file system, possibly on another machine; this machine's if it cannot be read."""
    try:
        os.utime(folder)
        return folder.stat().st_mtime
    except OSError:
        return time.time()


def _date(answer: Mapping[str, Any]) -> float:
    """The store's clock, from the header Date of an answer."""
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return time.time()


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def compare_and_swap(uri: str, version: str | None, content: bytes, conditional: bool = True) -> str | None:
    """Writes a file if it still has that version (None: absent). Returns the new version, or None if it has another.

    Uses S3's conditional writes, or a lock on the local folder. With `conditional` False it only compares the version
    just before the write, so that two simultaneous writers may both succeed. Each content must be unique, because a
    write whose answer was lost is recognised by its content. Raises NoConditionalWrites if the store does not support
    them, and UserError if it refuses, even if it refuses to replace the version that it has.
    """
    if not conditional:
        if read_versioned(uri).version != version:
            return None
        return _put_if(uri, {}, content) if is_s3(uri) else _replace(uri, content)
    return _swap_s3(uri, version, content) if is_s3(uri) else _swap_local(uri, version, content)


def _swap_s3(uri: str, version: str | None, content: bytes) -> str | None:
    # Ceph compares the header with the bare ETag; other stores may compare it with the quoted ETag, as in HTTP.
    conditions = [{"IfMatch": version}, {"IfMatch": f'"{version}"'}] if version else [{"IfNoneMatch": "*"}]
    for attempt in range(2):  # a concurrent write can make this one be refused, and then fail itself
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
    state = f"still has the version {version}" if version else "is absent"
    raise UserError(
        f"{uri}: the store refuses to write this file, as if somebody else had changed it, although it {state}"
    )


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
        # 412 (old MinIO: 304): the condition is false; 409: a concurrent write; 404: there is no file to match.
        if condition and status in (304, 404, 409, 412) and code != "NoSuchBucket":
            return None
        raise UserError(f"{uri}: cannot be written: {error}. {advice()}") from error
    except BotoCoreError as error:
        raise UserError(f"{uri}: cannot be written: {error}. {advice()}") from error


def require_conditional_writes(uri: str, content: bytes) -> None:
    """Tests a store with two writes that it must refuse; raises NoConditionalWrites if it accepts one.

    The file must exist; it then holds `content`. Does nothing for a local folder. Raises UserError if the store fails.
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
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # released on close, also if the process ends
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
