"""One URI, one filesystem: a local folder, `s3://bucket/prefix`, or any S3-compatible endpoint.

Credentials, region and endpoint come from the standard AWS chain and variables (AWS_ENDPOINT_URL, AWS_REGION, …).
"""

import os
import posixpath
from pathlib import Path

from pyarrow import fs

from dtn_ray.errors import UserError


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


def read_bytes(uri: str) -> bytes:
    """The whole content of a file. Raises OSError where it is absent."""
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


def copy_folder(source: str, destination: str) -> None:
    """Copies all files of one folder URI into another."""
    (from_fs, from_path), (to_fs, to_path) = resolve(source), resolve(destination)
    to_fs.create_dir(to_path, recursive=True)
    fs.copy_files(from_path, to_path, source_filesystem=from_fs, destination_filesystem=to_fs)
