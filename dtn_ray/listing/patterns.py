"""Users' regular expressions over keys that others chose: RE2, whose time is linear in the length of a key.

Python's own `re` backtracks: one key of sixty letters can take it practically for ever, and it holds the interpreter's
lock meanwhile. RE2 has no look-around, back-references, possessive or atomic groups. Its `\\d`, `\\w`, `\\s` and `\\b`
mean ASCII, its `\\z` is Python's `\\Z`, and its `$` does not match before a newline at the end.
"""

from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
import re2

from dtn_ray.errors import UserError
from dtn_ray.storage.local_files import escape
from dtn_ray.text.display import name as shown

LONGEST = 10_000  # characters
GROUPS = 50  # each group adds to the time of a match
MEMORY = 1 << 20  # bytes of the compiled pattern; this also bounds the time per byte of a key
SYNTAX = "https://github.com/google/re2/wiki/Syntax"


class Pattern:
    """A checked pattern. Pickles; keys may be any text."""

    def __init__(self, option: str, text: str) -> None:
        """`option`: the option with the pattern, such as --match. Raises UserError for a pattern that RE2 rejects."""
        self.option, self.text = (
            option,
            escape(text),
        )  # a pattern from a shell may be in another encoding, like a file name
        self._compiled  # noqa: B018

    @cached_property
    def _compiled(self) -> "re2._Regexp":
        if len(self.text) > LONGEST:
            raise UserError(f"{self.option}: a pattern of {len(self.text)} characters; at most {LONGEST} are taken")
        options = re2.Options()
        options.max_mem, options.log_errors = MEMORY, False
        try:
            compiled = re2.compile(self.text.encode(errors="surrogatepass"), options)
        except re2.error as error:
            reason = error.args[0] if error.args else ""
            reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
            raise UserError(
                f"{self.option} {shown(self.text)}: not a regular expression of RE2: {shown(reason)}. RE2 has no "
                f"look-around, back-references, possessive or atomic groups, and repeats at most 1,000 times: {SYNTAX}"
            ) from error
        if compiled.groups > GROUPS:
            raise UserError(f"{self.option}: a pattern of {compiled.groups} groups; at most {GROUPS} are taken")
        return compiled

    def __getstate__(self) -> tuple[str, str]:
        return self.option, self.text

    def __setstate__(self, state: tuple[str, str]) -> None:
        self.option, self.text = state

    def found_in(self, keys: pa.ChunkedArray) -> pa.ChunkedArray:
        """For each key (string) whether the pattern is found in it, as booleans."""
        # Arrow also uses RE2, and needs no Python call per key.
        return pc.call_function("match_substring_regex", [keys], pc.MatchSubstringOptions(self.text))

    def person(self, key: str) -> str | None:
        """The person of a key: the pattern's first group, or the whole match; None if the pattern is not found.

        None also where the match leaves the first group out.
        """
        found = self._compiled.search(key.encode(errors="surrogatepass"))
        if found is None:
            return None
        person: bytes | None = found[1 if self._compiled.groups else 0]
        return None if person is None else person.decode(errors="surrogatepass")
