"""Local files by key: lists what lies below a folder, with any names and at any depth, and reads files.

A key is text; a local name is bytes, which may be in another encoding than UTF-8. Bytes that are not UTF-8 appear in a
key as U+EF80 to U+EFFF, in Unicode's private use area, as in MirBSD's OPTU-8: 0x83 as U+EF83. So keys can be stored and
written anywhere, and `name_of` gives the original name. If a name contains these characters itself, its bytes are
escaped too, so that no two names share a key.
"""

import errno
import os
import stat as modes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

UNREADABLE, LOOP, SPECIAL, GONE, RESULTS = "unreadable", "link_loop", "special", "gone", "results"
"""Why an entry of a folder is no file."""
Odd = Callable[[str, str], None]
"""Is told of an entry that is no file, by reason (below, and in listing/left_out.py) and name."""
File = tuple[str, str, int, int]
"""Key, version, size in bytes, and time of change in µs since 1970."""

Identity = tuple[int, int]  # device and number of a folder

LONGEST_PATH = 4000  # bytes; Linux takes no path of more than 4,095 in one call
LONGEST_KEY = 1 << 16  # characters; what lies deeper is not listed
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
    """Text that was decoded with surrogateescape, as a key writes it; keys stay what they are."""
    return text if text.isascii() else text.translate(_ESCAPED)


def name_of(key: str) -> str:
    """The name that a key was made of, as Python decodes it."""
    return key if key.isascii() else key.translate(_UNESCAPED)


def walk(folder: str, odd: Odd | None = None, out: str | None = None) -> Iterator[File]:
    """The files below a folder, in the order of their keys; links are followed, unless to a folder that they lie in.

    Nor to `out`, the folder of the job's own results, or to one in it.

    What is no file, cannot be read or vanishes meanwhile is told to `odd`, and the rest goes on. Without `odd`, links
    to nothing, loops and special files are passed over. Holds the names of the folders that it is in. Yields nothing
    where the folder is absent. Raises OSError if the folder itself cannot be read, and without `odd` for any in it.
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
    """What is in a folder, sorted, and which it is. Raises OSError, ELOOP for a folder of `above`."""
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
    elif modes.S_ISDIR(found.st_mode):  # a moment ago it was none
        entries.append((f"{name}/", None))
    else:
        note(SPECIAL, f"{prefix}{name}", None)


class Walked:
    """Which folders `walk` lists below a folder: links are followed to anywhere, but to no folder that they lie in.

    What a key names there is read only where the walk would find it, too.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder.rstrip("/")
        self.above = {*_folders_above(folder or "/")}
        self._identity = lru_cache(1 << 14)(self._identity_of)
        self.lists = lru_cache(1 << 14)(self._lists)

    def _lists(self, folder: str) -> bool:
        """Whether the walk comes to a folder, by its key without a slash at the end; True if it is absent."""
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
    """The identities of the folders that a folder lies in: a link to one of them would lead back."""
    yield from _identities(map(str, Path(os.path.realpath(folder)).parents))


def _leads_into(path: str, folder: str) -> bool:
    """Whether a path is a link to a folder or to what is in it."""
    return os.path.islink(path) and f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(folder)}/")


def _identities(folders: Iterable[str]) -> Iterator[Identity]:
    """Of those folders that are there."""
    for path in folders:
        with suppress(OSError):
            found = os.stat(path)
            yield found.st_dev, found.st_ino


def stat(path: str) -> tuple[str, int, int]:
    """Version, size and time of change (µs since 1970) of one file, as `walk` tells them. Raises OSError."""
    with _reach(path) as (name, parent):
        found = os.stat(name, dir_fd=parent)
    _check(found.st_mode, path)
    return f"{found.st_size}-{found.st_mtime_ns}", found.st_size, max(-INT64, min(found.st_mtime_ns // 1000, INT64))


def read(path: str) -> bytes:
    """The whole content of a file. Raises OSError, also for what is no file, and ValueError for an impossible name."""
    with _reach(path) as (name, parent):
        # Without O_NONBLOCK, a pipe would be waited for.
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
    """A name for system calls, and the folder (a descriptor, or None) that it is relative to, for a path of any length.

    OSErrors of the block tell the path.
    """
    left, parent = os.fsencode(path), None
    try:
        while len(left) > LONGEST_PATH:
            cut = left.rfind(b"/", 1, LONGEST_PATH)
            if cut < 0:
                break  # one name is too long, and the system says so
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
