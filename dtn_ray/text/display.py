r"""Makes text from others safe to show: in terminals, HTML, chats and metrics.

Keys, column names, settings and a store's answers may hold secrets, terminal escape sequences, characters that reverse
or hide the text after them, line ends that forge a message of ours, and megabytes of text. Data files keep them
unchanged (ledger, Parquet); all code that shows them calls a function of this module. These functions also redact
secrets (redact.py).

line, name   one line: messages, logs, HTML, reasons in the ledger
chat         one line that mentions nobody and contains no link
label        a label of metrics
clean_streams   cleans everything else that this process prints, including output of libraries
"""

import re
import sys
from typing import Any, TextIO

from dtn_ray.text.redact import redact

LONGEST_LINE = 4000  # characters
LONGEST_NAME = 300
LONGEST_LABEL = 200
JOINERS = "\u200c\u200d"  # invisible, but parts of words in Persian and Indic languages, and of emoji
NOBODY = "\u200b"  # a zero-width space: after it, the text behind an @ is not a name

# Tabs, line ends, and the escape sequences of progress bars and colours are kept.
_NOT_PRINTED = re.compile(
    r"(\x1b\[[0-9;]*[mKA])"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def line(text: object, longest: int = LONGEST_LINE) -> str:
    r"""A text as one line of at most `longest` characters, without secrets. Characters that are not printable become
    \x1b, \n, \u202e and the like.

    The middle of a longer text is left out. Cleaning twice changes nothing.
    """
    whole = str(text)
    shown = redact(_shortened(whole, 4 * longest))
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() or each in JOINERS else _escaped(each) for each in shown)
    return _shortened(shown, longest, len(whole))


def name(text: object) -> str:
    """A key, or the name of a column or a file, for use in a message."""
    return line(text, LONGEST_NAME)


def chat(text: object) -> str:
    """A line for chat services, escaped by Slack's rules: it mentions nobody and contains no link."""
    shown = line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"@(?=\w)", f"@{NOBODY}", shown)
    shown = shown.replace("](", f"]{NOBODY}(")  # Markdown's links
    return re.sub(r"\b(https?:|www\.)(?=\S)", rf"\1{NOBODY}", shown, flags=re.IGNORECASE)


def label(text: object) -> str:
    """The value of a metric's label or of an HTTP header: only ASCII."""
    return _shortened(line(text, LONGEST_LABEL).encode("ascii", "backslashreplace").decode(), LONGEST_LABEL)


def clean_streams() -> None:
    """From now on, removes secrets, and escape sequences other than colours, from everything that Python prints.

    This includes output of libraries: warnings, tracebacks, and the output of workers that Ray prints.
    """
    for stream in ("stdout", "stderr"):
        if not isinstance(getattr(sys, stream), CleanStream):
            setattr(sys, stream, CleanStream(getattr(sys, stream), stream))


class CleanStream:
    """A text stream that cleans its output. Unpickled in another process, it is that process's stream of this name."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def __reduce__(self) -> tuple[Any, ...]:
        return _stream_named, (self._name,)

    def write(self, text: str) -> int:
        shown = redact(text)
        self._stream.write(_NOT_PRINTED.sub(lambda found: found[1] or _escaped(found[0]), shown))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for each in lines:
            self.write(each)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _stream_named(name: str) -> Any:
    return getattr(sys, name)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _shortened(text: str, longest: int, characters: int | None = None) -> str:
    """A text whose middle is left out if it is too long; `characters`: the length of the original text."""
    if len(text) <= longest:
        return text
    middle = f" ... ({max(characters or 0, len(text)):,} characters) ... "
    kept = longest - len(middle)
    return text[: kept - kept // 3] + middle + text[len(text) - kept // 3 :]
