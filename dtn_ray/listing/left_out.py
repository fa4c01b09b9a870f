"""What a source or a list holds besides the photos of a job: how many, why, and the first names."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dtn_ray.storage.local_files import GONE, LOOP, RESULTS, SPECIAL, UNREADABLE
from dtn_ray.text import display

OTHER_SUFFIX, LITTER = "other_suffix", "litter"
MATCH, MIN_SIZE, MODIFIED_SINCE = "match", "min_size", "modified_since"
FOLDER, OUTSIDE, UNSAFE, BAD_LINE = "folder", "outside", "unsafe", "bad_line"

REASONS = {
    OTHER_SUFFIX: "have a suffix that --suffixes does not name; --suffixes '' takes every name",
    LITTER: "are files that operating systems create beside photos (._*, Thumbs.db, __MACOSX/, @eaDir/, …)",
    MATCH: "do not pass --match",
    MIN_SIZE: "do not pass --min-size",
    MODIFIED_SINCE: "do not pass --modified-since",
    UNREADABLE: "are folders or files that cannot be read",
    LOOP: "are links to themselves or to a folder that contains them",
    RESULTS: "are links in IN that lead to folders of OUT",
    SPECIAL: "are neither files nor folders but sockets, pipes or devices",
    GONE: "were deleted during the listing, or are broken links",
    FOLDER: "are folders that the list names",
    OUTSIDE: "lie outside IN, and are not read",
    UNSAFE: "lead out of IN, by .. or an absolute path, and are not read",
    BAD_LINE: "are lines of the list that cannot be read",
}
"""For each reason the rest of the sentence "entries that …" in the report."""

NAMES = 10  # kept for each reason
LONGEST_NAME = 300
SUFFIXES = 200  # counted one by one; beyond that the rarest are dropped
SUFFIXES_TOLD = 10
SUFFIX = r"(?P<suffix>\.[^./\s]{1,10})$"


@dataclass
class LeftOut:
    """Counts of the entries that a job leaves out, by reason. Its size is bounded; parts of a listing can be merged."""

    counts: Counter[str] = field(default_factory=Counter)
    """By reason, a key of REASONS."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """The first entries of each reason."""
    suffixes: Counter[str] = field(default_factory=Counter)
    """How often each other suffix occurs, in lower case; the empty string counts names without a suffix."""

    @property
    def total(self) -> int:
        return self.counts.total()

    def add(self, reason: str, name: str) -> None:
        """Counts one entry; `name` may also say what is wrong with it."""
        self._add(reason, 1, [name])

    def add_keys(self, reason: str, keys: pa.ChunkedArray) -> None:
        """Counts files by their keys."""
        if not len(keys):
            return
        self._add(reason, len(keys), keys.slice(0, NAMES).to_pylist())
        if reason == OTHER_SUFFIX:
            found = pc.call_function(
                "extract_regex", [pc.call_function("utf8_lower", [keys])], pc.ExtractRegexOptions(SUFFIX)
            )
            suffixes = pc.call_function("struct_field", [found], pc.StructFieldOptions(["suffix"]))
            for each in pc.call_function("value_counts", [suffixes]).to_pylist():
                self.suffixes[each["values"] or ""] += each["counts"]
            self._forget()

    def merge(self, other: "LeftOut") -> None:
        """Adds the counts of another part."""
        for reason, count in other.counts.items():
            self._add(reason, count, other.names.get(reason, []))
        self.suffixes.update(other.suffixes)
        self._forget()

    def row(self) -> dict[str, Any]:
        """For summary.json: for each reason the count and the first names."""
        rows: dict[str, Any] = {
            reason: {"count": self.counts[reason], "first": self.names[reason]} for reason in self._reasons()
        }
        if OTHER_SUFFIX in rows:
            rows[OTHER_SUFFIX]["suffixes"] = dict(self.suffixes.most_common(SUFFIXES_TOLD))
        return rows

    def told(self) -> str:
        """On one line, for a message."""
        return "; ".join(
            f"{self.counts[reason]} {REASONS[reason]}: {', '.join(map(display.name, self.names[reason][:3]))}"
            for reason in self._reasons()
        )

    def _reasons(self) -> Iterable[str]:
        return (reason for reason in REASONS if self.counts[reason])

    def _add(self, reason: str, count: int, names: Iterable[str]) -> None:
        self.counts[reason] += count
        kept = self.names.setdefault(reason, [])
        kept += map(_short, islice(names, NAMES - len(kept)))

    def _forget(self) -> None:
        if len(self.suffixes) > SUFFIXES:
            self.suffixes = Counter(dict(self.suffixes.most_common(SUFFIXES)))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
