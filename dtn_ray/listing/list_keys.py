"""Converts keys in lists to keys as in the source's listing. Objects outside of the source are never read.

One rule holds for all ways to name an object, whether relative, by a path, a URI or a bucket: the resulting key is
relative to the source, no component of it is `..`, and the listing of the source would reach it too. Local links are
followed as the walk follows them (local_files.Walked).
"""

import os
import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import unquote, unquote_plus

import pyarrow as pa
import pyarrow.compute as pc

from dtn_ray import storage
from dtn_ray.listing.left_out import OUTSIDE, UNSAFE
from dtn_ray.storage.local_files import Walked, escape, name_of
from dtn_ray.storage.uris import LEADS_OUT, leads_out

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
ODD_LOCAL = r"(^|/)\.{0,2}(/|$)"  # a path, a URI, an empty component, `.` or `..`; the empty key
ODD_OBJECT = rf"://|{LEADS_OUT}"
ENCODED = "[%+]"
FOLDER = "/?[^/]*$"

LeftOut = dict[int, str]
"""Index of a key that is left out → the reason (left_out.REASONS), or an empty text if it is not counted."""


class Keys:
    """The keys of one source."""

    def __init__(self, source: str, quoted: bool = False) -> None:
        """`quoted`: keys of a bucket are URL-encoded, as in S3 Inventory's CSV."""
        self.quoted, self.local = quoted, not storage.is_s3(source)
        self.source, self.bucket, self.prefix = storage.child(source, "").rstrip("/"), "", ""
        if self.local:
            path = os.path.abspath(storage.local_path(source))
            self.root, self.walked = escape(path), Walked(path)
            self.below = lru_cache(1 << 14)(self._below)
        else:
            self.bucket, prefix = storage.bucket_and_key(source.rstrip("/"))
            self.prefix = prefix and prefix + "/"

    def relative(self, keys: pa.Array, in_bucket: bool) -> tuple[pa.Array, LeftOut]:
        """Keys (string) relative to the source, null for those that are left out; and the reasons for these.

        `in_bucket`: `keys` are full, literal keys of the source's bucket.
        """
        if in_bucket:
            return self._in_bucket(keys)
        found, left = _each(keys, ODD_LOCAL if self.local else ODD_OBJECT, self._one)
        if self.local:
            folders = pc.call_function("replace_substring_regex", [found], pc.ReplaceSubstringOptions(FOLDER, ""))
            unlisted = [each for each in folders.unique().to_pylist() if each and not self.walked.lists(each)]
            if unlisted:
                options = pc.SetLookupOptions(pa.array(unlisted, pa.string()))
                beyond = pc.call_function("is_in", [folders], options)
                left |= dict.fromkeys(_places(beyond), UNSAFE)
                found = pc.call_function("if_else", [beyond, pa.scalar(None, pa.string()), found])
        return found, left

    def _in_bucket(self, keys: pa.Array) -> tuple[pa.Array, LeftOut]:
        if self.quoted:
            keys, _ = _each(keys, ENCODED, lambda key: (unquote_plus(key, errors="replace"), ""))
        inside = pc.call_function("starts_with", [keys], pc.MatchSubstringOptions(self.prefix))
        relative = pc.call_function("utf8_slice_codeunits", [keys], pc.SliceOptions(len(self.prefix)))
        found = pc.call_function("if_else", [inside, relative, pa.scalar(None, pa.string())])
        left = dict.fromkeys(_places(pc.call_function("invert", [inside])), OUTSIDE)
        found, unsafe = _each(found, LEADS_OUT, lambda key: (None, UNSAFE))
        return found, left | unsafe

    def _one(self, key: str) -> tuple[str | None, str]:
        """Converts a key that is not just names between slashes; returns it, or None and the reason."""
        scheme = SCHEME.match(key)
        if self.local:
            if scheme and scheme[1].lower() != "file":
                return None, OUTSIDE
            if not scheme:
                return self._local(key)
            host, _, path = key[7:].partition("/")
            if host.lower() not in ("", "localhost"):
                return None, OUTSIDE
            return self._local("/" + escape(unquote(path, errors="surrogateescape")))
        if leads_out(key):
            return None, UNSAFE
        if not scheme:
            return key, ""
        key = storage.join(key)  # s3a:// is s3://
        below = key.removeprefix(self.source + "/")
        return (below, "") if below != key else (None, OUTSIDE)

    def _local(self, key: str) -> tuple[str | None, str]:
        names = [name for name in key.split("/") if name not in ("", ".")]
        if ".." in names:
            return None, UNSAFE
        if key.startswith("/"):
            folder = self.below("/" + "/".join(names[:-1]))
            if folder is None:
                return None, "" if "/" + "/".join(names) == self.root else UNSAFE
            names = [*folder, *names[-1:]]
        return "/".join(names) or None, ""

    def _below(self, folder: str) -> tuple[str, ...] | None:
        """The names that lead from the source to an absolute folder, through any links; None if it is outside."""
        if f"{folder}/".startswith(f"{self.root.rstrip('/')}/"):
            return tuple(name for name in folder[len(self.root) :].split("/") if name)
        try:
            root, names = os.stat(name_of(self.root)), folder.split("/")
            for i in range(1, len(names) + 1):
                found = os.stat(name_of("/".join(names[:i]) or "/"))
                if (found.st_dev, found.st_ino) == (root.st_dev, root.st_ino):
                    return tuple(names[i:])
        except (OSError, ValueError):
            pass
        return None


def _each(keys: pa.Array, pattern: str, change: Callable[[str], tuple[str | None, str]]) -> tuple[pa.Array, LeftOut]:
    """Applies `change` to the keys that contain a pattern; also returns the reasons for those that became None."""
    matches = pc.call_function("match_substring_regex", [keys], pc.MatchSubstringOptions(pattern)).fill_null(False)
    places = _places(matches)
    if not places:
        return keys, {}
    changed = [change(key) for key in keys.filter(matches).to_pylist()]
    found = pc.call_function("replace_with_mask", [keys, matches, pa.array([key for key, _ in changed], pa.string())])
    return found, {place: reason for place, (key, reason) in zip(places, changed, strict=True) if key is None}


def _places(mask: pa.Array) -> list[int]:
    return pc.call_function("indices_nonzero", [mask.fill_null(False)]).to_pylist()
