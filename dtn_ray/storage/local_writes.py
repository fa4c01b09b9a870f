"""Writes and deletes local files: only below a folder that the user named, and never through a link.

The folder itself may be a link, or lie below one, because the user chose it. Below it, if a file to be written or
deleted is a link, the link itself is replaced or deleted, and its target stays unchanged. If a folder on the path is a
link, that is an error.
"""

import errno
import os
import shutil
import stat as modes
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class Linked(OSError):
    """A folder on the path of a write is a link; `filename` is its path."""

    def __init__(self, path: str) -> None:
        super().__init__(
            errno.ELOOP, "a folder on this path is a link, and nothing is written or deleted through links", path
        )


def write(root: str, path: str, content: bytes, scratch: str | None = None) -> None:
    """Writes a file atomically: `path` is relative to `root`, and missing folders are created.

    The content is first written to a temporary file in the same folder, or in the folder `scratch` of the same file
    system, which is then renamed. Raises OSError, and ValueError for a path that leads out of `root`.
    """
    with _new(root, path, scratch) as file:
        file.write(content)


def copy(root: str, path: str, source: BinaryIO) -> None:
    """Writes a file as `write` does, from an open file of any size."""
    with _new(root, path) as file:
        shutil.copyfileobj(source, file)


def delete(root: str, path: str) -> None:
    """Deletes a file or a link; an absent one is not an error. Raises as `write` does."""
    *folders, name = _names(path)
    with suppress(FileNotFoundError), _folder(root, folders) as folder:
        os.unlink(name, dir_fd=folder)


def remove_folder(root: str, path: str) -> None:
    """Removes a folder if it is empty; anything else stays. Raises as `write` does."""
    *folders, name = _names(path)
    with suppress(OSError), _folder(root, folders) as folder:
        os.rmdir(name, dir_fd=folder)


def is_link(path: str) -> bool:
    """Whether a path is itself a link, even a broken one."""
    return os.path.islink(path)


def links_below(folder: str) -> Iterator[str]:
    """The paths of all links below a folder, which may be a link itself."""
    for path, folders, files in os.walk(os.path.realpath(folder)):
        yield from (each for name in [*folders, *files] if os.path.islink(each := os.path.join(path, name)))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it is renamed to `path` at the end of the `with`, unless that raises."""
    partial = path.with_name(f"{uuid.uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def _new(root: str, path: str, scratch: str | None = None) -> Iterator[BinaryIO]:
    *folders, name = _names(path)
    with _folder(root, folders, make=True) as folder:
        partial = os.path.join(scratch or "", f"{uuid.uuid4().hex}.partial")
        try:
            with open(os.open(partial, NEW, 0o666, dir_fd=folder), "wb") as file:
                yield file
            os.replace(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial, dir_fd=folder)
            raise


def _names(path: str) -> list[str]:
    names = path.split("/")
    if not {"", ".", ".."}.isdisjoint(names):
        raise ValueError(f"{path!r} is not the path of a file below a folder")
    return names


@contextmanager
def _folder(root: str, names: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """A descriptor of a folder below `root`."""
    path = os.path.realpath(root)
    if make:
        os.makedirs(path, exist_ok=True)
    descriptor = os.open(path, FOLDER)
    try:
        for name in names:
            path = f"{path}/{name}"
            following = _open(name, descriptor, path, make)
            os.close(descriptor)
            descriptor = following
        yield descriptor
    finally:
        os.close(descriptor)


def _open(name: str, parent: int, path: str, make: bool) -> int:
    try:
        return os.open(name, FOLDER, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
        return _open(name, parent, path, make=False)
    except NotADirectoryError:
        if modes.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise Linked(path) from None
        raise
