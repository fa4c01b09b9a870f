"""Rows of a training set without a usable image: they are skipped, named and counted. Too many are an error."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from dtn_ray.errors import UserError
from dtn_ray.text.display import line

NAMED = 10
"""Rows that get a line each, so that a set with thousands of bad rows does not fill the log."""


@dataclass
class BadRows:
    """The rows that one process found to hold no image. A row that recurs in a later epoch counts once."""

    limit: int = 1000
    """The most rows before an error (--max-bad-rows)."""
    found: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.found)

    def add(self, problems: Iterable[str]) -> None:
        """Counts rows, each given as "NAME: what is wrong"; an empty text means a good row.

        Raises UserError for more than `limit`.
        """
        for problem in problems:
            if not problem or problem in self.found:
                continue
            self.found.add(problem)
            if len(self) > self.limit:
                raise UserError(
                    f"{problem}; more than --max-bad-rows {self.limit} rows hold no image. Repair the data, or raise "
                    "the limit"
                )
            if len(self) <= NAMED:
                end = "; further rows are only counted" if len(self) == NAMED else ""
                print(f"warning: {line(problem)}; this row is left out{end}", flush=True)
