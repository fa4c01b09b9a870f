"""Lists and reads local files by key: any names, at any depth.

A key is text; a local name is bytes, possibly in another encoding than UTF-8. Bytes that are not UTF-8 appear in a key
as U+EF80 to U+EFFF, in Unicode's private use area, as in MirBSD's OPTU-8: 0x83 becomes U+EF83. Keys can therefore be
stored and written anywhere, and `name_of` returns the original name. If a name contains these characters itself, its
bytes are escaped too, so that no two names share a key.
"""

import errno
import os
import stat as modes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

UNREADABLE, LOOP, SPECIAL, GONE, RESULTS = "unreadable", "link_loop", "special", "gone", "results"
"""Reasons why an entry of a folder is left out."""
Odd = Callable[[str, str], None]
"""Called with reason (one of these, or of listing/left_out.py) and name for each entry that is left out."""
File = tuple[str, str, int, int]
"""Key, version, size in bytes, and time of change in µs since 1970."""

Identity = tuple[int, int]  # device and number of a folder

LONGEST_PATH = 4000  # bytes; Linux accepts at most 4,095 in one call
LONGEST_KEY = 1 << 16  # characters; longer keys are not listed
INT64 = 2**63 - 1

# Python decodes the byte 0x83 of such a name as U+DC83.
_ESCAPED: dict[int, int | str] = {0xDC00 + byte: 0xEF00 + byte for byte in range(0x80, 0x100)}
_UNESCAPED = {0xEF00 + byte: 0xDC00 + byte for byte in range(0x80, 0x100)}
_THEMSELVES: dict[int, int | str] = {
    code: "".join(chr(0xEF00 + byte) for byte in chr(code).encode()) for code in _UNESCAPED
}


def key_of(name: str) -> str:
    """The key of a name (or path) as Python decodes it (os.fsdecode); UTF-8 can encode it."""
    return name if name.isascii() else name.translate(_THEMSELVES | _ESCAPED)


def escape(text: str) -> str:
    """Converts text that was decoded with surrogateescape to a key; leaves keys unchanged."""
    return text if text.isascii() else text.translate(_ESCAPED)


def name_of(key: str) -> str:
    """The local name of a key, as Python decodes it (os.fsdecode)."""
    return key if key.isascii() else key.translate(_UNESCAPED)


def walk(folder: str, odd: Odd | None = None, out: str | None = None) -> Iterator[File]:
    """The files below a folder, in the order of their keys.

    Links are followed, except to a folder that contains the link, and to `out`, the folder of the job's own results,
    or a folder in it.

    `odd` is called for each entry that is not a file, cannot be read or is deleted during the listing; the listing
    continues. Without `odd`, broken links, loops and special files are skipped. Holds the names in the folders on the
    current path. Yields nothing if the folder is absent. Raises OSError if the folder itself cannot be read and,
    without `odd`, if any folder below it cannot be read.
    """

    def note(reason: str, key: str, error: OSError | None = None) -> None:
        if odd:
            odd(reason, f"{key}: {error.strerror}" if reason == UNREADABLE and error else key)
        elif error and reason == UNREADABLE:
            raise error

    above, own = {*_folders_above(folder)}, {*_identities([out] if out else [])}
    try:
        entries, identity = _entries(folder, "", above, note)
    except FileNotFoundError:
        return
    above.add(identity)
    stack = [("", iter(entries), identity)]
    while stack:
        prefix, left, identity = stack[-1]
        entry = next(left, None)
        if entry is None:
            stack.pop()
            above.discard(identity)
            continue
        name, found = entry
        key = f"{prefix}{name}"
        if found:
            yield key, f"{found[0]}-{found[1]}", found[0], max(-INT64, min(found[1] // 1000, INT64))
        elif len(key) > LONGEST_KEY:
            note(UNREADABLE, key, OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)))
        else:
            path = f"{folder}/{name_of(key[:-1])}"
            try:
                entries, identity = _entries(path, key, above, note)
            except OSError as error:
                note(_reason(error), key[:-1] if error.errno == errno.ELOOP else key, error)
                continue
            if identity in own or (out and _leads_into(path, out)):
                note(RESULTS, key[:-1])
                continue
            above.add(identity)
            stack.append((key, iter(entries), identity))


Note = Callable[[str, str, OSError | None], None]
Entry = tuple[str, tuple[int, int] | None]  # a file with size and time of change in ns; a folder (name/)


def _entries(path: str, prefix: str, above: set[Identity], note: Note) -> tuple[list[Entry], Identity]:
    """The sorted entries of a folder, and its identity. Raises OSError; ELOOP for a folder of `above`."""
    entries = list[Entry]()
    with _reach(path) as (name, parent):
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent)
    try:
        where = os.fstat(descriptor)
        identity = where.st_dev, where.st_ino
        if identity in above:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        with os.scandir(descriptor) as found:
            try:
                for entry in found:
                    _add(entry, entries, prefix, note)
            except OSError as error:  # the rest of the folder cannot be read
                note(UNREADABLE, prefix, error)
    finally:
        os.close(descriptor)
    return sorted(entries), identity


def _add(entry: os.DirEntry[str], entries: list[Entry], prefix: str, note: Note) -> None:
    name = key_of(entry.name)
    try:
        if entry.is_dir():
            entries.append((f"{name}/", None))
            return
        found = entry.stat()
    except OSError as error:
        note(_reason(error), f"{prefix}{name}", error)
        return
    if modes.S_ISREG(found.st_mode):
        entries.append((name, (found.st_size, found.st_mtime_ns)))
    elif modes.S_ISDIR(found.st_mode):  # became a folder since `is_dir`
        entries.append((f"{name}/", None))
    else:
        note(SPECIAL, f"{prefix}{name}", None)


class Walked:
    """Tells whether `walk` would list a folder, so that a key is read only if the walk would find it too."""

    def __init__(self, folder: str) -> None:
        self.folder = folder.rstrip("/")
        self.above = {*_folders_above(folder or "/")}
        self._identity = lru_cache(1 << 14)(self._identity_of)
        self.lists = lru_cache(1 << 14)(self._lists)

    def _lists(self, folder: str) -> bool:
        """Whether the walk reaches a folder (a key without a final slash); True if it is absent."""
        above, end = {*self.above, self._identity("")}, 0
        while end < len(folder):
            end = folder.find("/", end + 1) % (len(folder) + 1)
            identity = self._identity(folder[:end])
            if identity is None:
                return True
            if identity in above:
                return False
            above.add(identity)
        return True

    def _identity_of(self, folder: str) -> Identity | None:
        try:
            with _reach(f"{self.folder}/{name_of(folder)}") as (name, parent):
                found = os.stat(name, dir_fd=parent)
        except (OSError, ValueError):
            return None
        return found.st_dev, found.st_ino


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return GONE
    return LOOP if error.errno == errno.ELOOP else UNREADABLE


def _folders_above(folder: str) -> Iterator[Identity]:
    """The identities of the folders that contain a folder: a link to one of them would be a loop."""
    yield from _identities(map(str, Path(os.path.realpath(folder)).parents))


def _leads_into(path: str, folder: str) -> bool:
    """Whether a path is a link to a folder or to something in it."""
    return os.path.islink(path) and f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(folder)}/")


def _identities(folders: Iterable[str]) -> Iterator[Identity]:
    """The identities of those folders that exist."""
    for path in folders:
        with suppress(OSError):
            found = os.stat(path)
            yield found.st_dev, found.st_ino


def stat(path: str) -> tuple[str, int, int]:
    """Version, size and time of change (µs since 1970) of one file, as from `walk`. Raises OSError."""
    with _reach(path) as (name, parent):
        found = os.stat(name, dir_fd=parent)
    _check(found.st_mode, path)
    return f"{found.st_size}-{found.st_mtime_ns}", found.st_size, max(-INT64, min(found.st_mtime_ns // 1000, INT64))


def read(path: str) -> bytes:
    """The whole content of a file. Raises OSError, also if it is not a file, and ValueError for an impossible name."""
    with _reach(path) as (name, parent):
        # Without O_NONBLOCK, opening a pipe would block.
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=parent)
    try:
        _check(os.fstat(descriptor).st_mode, path)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _check(mode: int, path: str) -> None:
    if modes.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not modes.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a file but a socket, pipe or device", path)


@contextmanager
def _reach(path: str) -> Iterator[tuple[bytes, int | None]]:
    """For a path of any length: a name for system calls, and the folder (a descriptor, or None) it is relative to.

    OSErrors that the block raises get the whole path as their filename.
    """
    left, parent = os.fsencode(path), None
    try:
        while len(left) > LONGEST_PATH:
            cut = left.rfind(b"/", 1, LONGEST_PATH)
            if cut < 0:
                break  # a single name is too long; the system call will fail
            following = os.open(left[:cut], os.O_PATH | os.O_DIRECTORY, dir_fd=parent)
            if parent is not None:
                os.close(parent)
            left, parent = left[cut:].lstrip(b"/"), following
        yield left, parent
    except OSError as error:
        error.filename = path
        raise
    finally:
        if parent is not None:
            os.close(parent)
