"""The error for bad input: its message says what is wrong and what to do."""

from typing import Any

from dtn_ray.text.display import line

SHOWN = 80  # characters of a setting's value, in a message


class UserError(ValueError):
    """Bad input. The message names the file or setting, what is wrong with it and what to do; jobs print it alone.

    It is cleaned as a line of text (display.py), so parts of it may come from anywhere.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(line(message))


def reason(error: BaseException, longest: int = 400) -> str:
    """The message of another library's error, in one line of limited length, without control characters."""
    return line(" ".join(str(error).split()) or type(error).__name__, longest)


def changes(before: Any, after: Any, prefix: str = "") -> list[str]:
    """The settings in which two configurations differ, as "name: before → after", sorted; nested names are dotted.

    Configurations are dicts of plain values, as JSON keeps them; a setting that one lacks counts as None there.
    """
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [f"{prefix.rstrip('.')}: {line(before, SHOWN)} → {line(after, SHOWN)}"]
    keys = sorted(before.keys() | after.keys())
    return [change for key in keys for change in changes(before.get(key), after.get(key), f"{prefix}{key}.")]
