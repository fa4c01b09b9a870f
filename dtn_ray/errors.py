"""The one error that means: what the user gave is wrong, and the message says what to do."""

from typing import Any

from dtn_ray.display import line


class UserError(ValueError):
    """Bad input. The message names the file or setting, what is wrong with it and what to do; jobs print it alone.

    It is cleaned as a line of text (display.py), so parts of it may come from anywhere.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(line(message))


def reason(error: BaseException, longest: int = 400) -> str:
    """What an error of another library says, in one line of so many characters, without control characters."""
    text = " ".join(str(error).split())[:longest] or type(error).__name__
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def changes(before: Any, after: Any, prefix: str = "") -> list[str]:
    """In which settings two configurations differ, as "name: before → after", sorted; names of nested ones are dotted.

    Configurations are dicts of plain values, as JSON keeps them; a setting that one lacks counts as None there.
    """
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [f"{prefix.rstrip('.')}: {_short(before)} → {_short(after)}"]
    keys = sorted(before.keys() | after.keys())
    return [change for key in keys for change in changes(before.get(key), after.get(key), f"{prefix}{key}.")]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
