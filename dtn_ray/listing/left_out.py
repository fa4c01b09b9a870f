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
    OTHER_SUFFIX: "have another suffix than --suffixes names; --suffixes '' takes every name",
    LITTER: "are not photos but what systems keep beside them (._*, Thumbs.db, __MACOSX/, @eaDir/, …)",
    MATCH: "do not pass --match",
    MIN_SIZE: "do not pass --min-size",
    MODIFIED_SINCE: "do not pass --modified-since",
    UNREADABLE: "are folders or files that cannot be read",
    LOOP: "are links to themselves or to a folder that they lie in",
    RESULTS: "are folders of OUT, which links in IN lead to",
    SPECIAL: "are neither files nor folders but sockets, pipes or devices",
    GONE: "vanished while they were listed, or are links to nothing",
    FOLDER: "are folders that the list names",
    OUTSIDE: "lie outside IN, and are not read",
    UNSAFE: "lead out of IN, by .. or a path, and are not read",
    BAD_LINE: "are lines of the list that cannot be read",
}
"""For each reason what its entries are or do, as the report says it."""

NAMES = 10  # kept of each reason
LONGEST_NAME = 300
SUFFIXES = 200  # counted apart; the rarest of more are forgotten
SUFFIXES_TOLD = 10
SUFFIX = r"(?P<suffix>\.[^./\s]{1,10})$"


@dataclass
class LeftOut:
    """Counts of entries that a job does not take, by reason. Of bounded size; sums of parts are those of the whole."""

    counts: Counter[str] = field(default_factory=Counter)
    """By reason, a key of REASONS."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """The first entries of each reason."""
    suffixes: Counter[str] = field(default_factory=Counter)
    """In small letters, of the files of another suffix; empty for a name without one."""

    @property
    def total(self) -> int:
        return self.counts.total()

    def add(self, reason: str, name: str) -> None:
        """Counts one entry; its name may say what is wrong with it, too."""
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
        """Adds what another counted."""
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
