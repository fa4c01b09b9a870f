"""S3 as a pyarrow filesystem, through the same clients as everything else. Its pickled form holds no credentials."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import obstore
import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import BaseError
from pyarrow import fs

from dtn_ray.storage.s3 import client, store
from dtn_ray.text.redact import redact

READ_AHEAD = 8 << 20  # bytes, for a file that is read sequentially


class S3Files(fs.FileSystemHandler):
    """Paths are bucket/key. Folders are common prefixes of keys, so creating one does nothing."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Files)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = object.__hash__

    def get_type_name(self) -> str:
        return "s3"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [_info(path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        base = selector.base_dir.rstrip("/")
        found, folders = list[fs.FileInfo](), set[str]()
        there = False
        for each in _below(base, selector.recursive):
            there = True
            if isinstance(each, str):
                folders.add(each)
                continue
            if not each.path.endswith("/"):
                found.append(each)
            parent = each.path.rpartition("/")[0]
            while len(parent) > len(base) and parent not in folders:
                folders.add(parent)
                parent = parent.rpartition("/")[0]
        if not there and not selector.allow_not_found:
            raise FileNotFoundError(f"s3://{base}: no such folder")
        return found + [fs.FileInfo(folder, fs.FileType.Directory) for folder in sorted(folders)]

    def create_dir(self, path: str, recursive: bool) -> None:
        pass

    def delete_dir(self, path: str) -> None:
        if not _split(path)[1]:
            raise OSError(f"s3://{path}: a whole bucket is not deleted")
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(self.delete_file, [each.path for each in _below(path, True) if not isinstance(each, str)]))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> NoReturn:
        raise NotImplementedError("all buckets are not deleted at once")

    def delete_file(self, path: str) -> None:
        bucket, key = _split(path)
        with _Errors(path):
            client().delete_object(Bucket=bucket, Key=key)

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    def copy_file(self, src: str, dest: str) -> None:
        (source, key), (bucket, new) = _split(src), _split(dest)
        with _Errors(src):
            client().copy({"Bucket": source, "Key": key}, bucket, new)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(_open(path), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(io.BufferedReader(_open(path), READ_AHEAD), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_Writer(path), mode="w")  # type: ignore[arg-type]

    def open_append_stream(self, path: str, metadata: Any) -> NoReturn:
        raise NotImplementedError("objects cannot be appended to")


class _Errors:
    """Converts the clients' errors to OSError with the object's name."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        absent = isinstance(error, FileNotFoundError)
        if isinstance(error, ClientError):
            absent = error.response["Error"]["Code"] in ("NoSuchKey", "404")
        if absent:
            raise FileNotFoundError(f"s3://{self.path}: no such object") from error
        if isinstance(error, ClientError | BotoCoreError | BaseError):
            text = str(error).partition("\n\nDebug source")[0]
            raise OSError(f"s3://{self.path}: {redact(text)}") from error


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.strip("/").partition("/")
    return bucket, key


def _info(path: str) -> fs.FileInfo:
    bucket, key = _split(path)
    if key:
        try:
            with _Errors(path):
                head = client().head_object(Bucket=bucket, Key=key)
            return fs.FileInfo(path, fs.FileType.File, size=head["ContentLength"], mtime=head["LastModified"])
        except FileNotFoundError:
            pass
    there = next(_below(path, False), None) is not None
    return fs.FileInfo(path, fs.FileType.Directory if there else fs.FileType.NotFound)


def _below(path: str, recursive: bool) -> Iterator[fs.FileInfo | str]:
    """The objects below a path, including markers of folders, and the paths of folders."""
    bucket, key = _split(path)
    options = {} if recursive else {"Delimiter": "/"}
    with _Errors(path):
        pages = client().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=key and f"{key}/", **options):
            for each in page.get("Contents", ()):
                yield fs.FileInfo(
                    f"{bucket}/{each['Key']}", fs.FileType.File, size=each["Size"], mtime=each["LastModified"]
                )
            for each in page.get("CommonPrefixes", ()):
                yield f"{bucket}/{each['Prefix'].rstrip('/')}"


def _open(path: str) -> "_Reader":
    bucket, key = _split(path)
    with _Errors(path):
        found = obstore.head(store(bucket), key)
    return _Reader(path, found["size"])


class _Reader(io.RawIOBase):
    """Each read is one range request."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size, self.at = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def read(self, size: int = -1) -> Any:
        end = self.size if size is None or size < 0 else min(self.at + size, self.size)
        if end <= self.at:
            return b""
        bucket, key = _split(self.path)
        with _Errors(self.path):
            content = obstore.get_range(store(bucket), key, start=self.at, end=end)
        self.at += len(content)
        return content

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = memoryview(content)
        return len(content)


class _Writer:
    """Writes an object, in parts if it is large. The object exists only after `close`."""

    def __init__(self, path: str) -> None:
        self.path, self.closed = path, False
        bucket, key = _split(path)
        self.file = obstore.open_writer(store(bucket), key)

    def write(self, content: Any) -> int:
        with _Errors(self.path):
            return self.file.write(memoryview(content).cast("B"))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            with _Errors(self.path):
                self.file.close()
