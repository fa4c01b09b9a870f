"""Parses URIs: a local path, or bucket and key."""

import os
import re
from urllib.parse import unquote

from dtn_ray.errors import UserError
from dtn_ray.storage import local_files
from dtn_ray.text.display import name as shown
from dtn_ray.text.redact import HIDDEN

LEADS_OUT = r"(^|/)\.\.(/|$)"
"""`leads_out` as a regular expression for many keys at once."""


def leads_out(key: str) -> bool:
    """Whether a key has a component `..`, so that it may name something outside the folder that it is relative to.

    In a bucket `..` is an ordinary name, but proxies and gateways resolve it, so it is not read there either.
    """
    return ".." in key and ".." in key.split("/")


S3 = re.compile(r"s3[an]?://", re.IGNORECASE)  # Hadoop's s3a:// and s3n:// mean the same


def is_s3(uri: str) -> bool:
    """Whether a URI names a bucket or something in it."""
    return S3.match(uri) is not None


def absolute(uri: str) -> str:
    """The URI as s3://bucket/key or as an absolute local path, so that it means the same in other processes.

    Raises UserError for another scheme, a bucket without a name, and a file:// URI of another machine.
    """
    if is_s3(uri):
        bucket, key = bucket_and_key(uri)
        if not bucket:
            raise UserError(f"{uri}: no bucket; give s3://bucket/prefix")
        return f"s3://{bucket}/{key}" if key else f"s3://{bucket}"
    return os.path.realpath(local_path(uri))


def local_path(uri: str) -> str:
    """The local path of a URI; links are not resolved. Raises UserError as `absolute` does."""
    if "://" in uri and not (_is_file_uri(uri) or uri.startswith("/")):
        raise UserError(f"{uri}: unknown scheme; give a local path or s3://bucket/prefix")
    return os.path.expanduser(_local(uri))


def _is_file_uri(uri: str) -> bool:
    return uri[:6].lower() == "file:/"


def _local(uri: str) -> str:
    """The path of a file:// URI, with %20 and the like decoded; anything else unchanged."""
    if not _is_file_uri(uri):
        return uri
    path = uri[5:]
    if path.startswith("//"):
        host, _, path = path[2:].partition("/")
        if host not in ("", "localhost"):
            raise UserError(f"{uri}: a file on the host {host}; give file:///PATH, with three slashes, or a local path")
        path = f"/{path}"
    return unquote(path)


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 URI; the key may be empty or begin with a slash. Raises UserError for credentials."""
    bucket, _, key = uri[uri.index("://") + 3 :].partition("/")
    if "@" in bucket or (":" in bucket and not bucket.startswith("arn:")):
        place = uri.rpartition("@")[2] if "@" in uri else "…"  # a secret key may hold a slash
        raise UserError(
            f"s3://{HIDDEN}@{place}: a URI must not hold credentials, because others can see it: give "
            "s3://bucket/prefix, and set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return bucket, key


def join(uri: str, *names: str) -> str:
    """Appends names to a URI. A file:// URI becomes a path, because a % in a name is an ordinary character.

    The result always lies below the URI, whatever the names: a name that begins with a slash does not replace the
    part before it. Raises UserError for a name with a component `..`.
    """
    joined = plain_uri(uri)
    for name in names:
        if leads_out(name):
            raise UserError(f"{uri}: {shown(name)} leads out of it")
        joined += name if joined.endswith("/") or not joined else f"/{name}"
    return joined


def child(uri: str, key: str) -> str:
    """A file below a folder, by its key in LISTING, which may begin with a slash. Raises UserError as `join` does."""
    if leads_out(key):
        raise UserError(f"{uri}: {shown(key)} leads out of it")
    return f"{plain_uri(uri).rstrip('/')}/{key if is_s3(uri) else local_files.name_of(key)}"


def plain_uri(uri: str) -> str:
    return S3.sub("s3://", uri, count=1) if is_s3(uri) else _local(uri)
