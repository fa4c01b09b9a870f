"""Parses numbers and times in the formats of tables from other programs."""

import math
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

NOTHING = ("", "nan", "nat", "none", "null")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INT64 = 2**63 - 1
# A number of seconds since 1970 above this would be after the year 5000, so a larger number has a smaller unit.
UNITS = ((10**17, Decimal("0.001")), (10**14, Decimal(1)), (10**11, Decimal(1000)), (0, Decimal(1_000_000)))


LONGEST = 100  # characters of a number or time


class Microseconds(int):
    """A time in µs since 1970, whatever its size."""


def truth(value: Any) -> bool | None:
    """A truth value: True, "true", 1, "0"; None for nothing. Raises ValueError for anything else."""
    if _is_nothing(value):
        return None
    text = str(value).strip().lower()
    if text not in ("true", "1", "false", "0"):
        raise ValueError(f"{value} is neither true nor false")
    return text in ("true", "1")


def whole(value: Any) -> int | None:
    """A number of bytes: 829, "829", "829.0", 829.0, "1e3"; None for nothing. Raises ValueError for anything else."""
    if _is_nothing(value):
        return None
    text = _text(value)
    number = int(text) if re.fullmatch(r"[+]?\d{1,19}", text) else float(text)
    if isinstance(number, float):
        if not number.is_integer():
            raise ValueError(f"{value} is not a whole number")
        number = int(number)
    if not 0 <= number <= INT64:
        raise ValueError(f"{value} is not a number of bytes")
    return number


def microseconds(value: Any) -> int | None:
    """A time in µs since 1970; None for nothing.

    Takes ISO 8601 with any number of digits and with Z, UTC, GMT, an offset or none (UTC), dates of HTTP, and numbers
    of seconds, milliseconds, microseconds or nanoseconds since 1970. Raises ValueError for anything else.
    """
    if isinstance(value, Microseconds):
        return max(-INT64, min(int(value), INT64))
    if _is_nothing(value):
        return None
    text = _text(value)
    if re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text) and not re.fullmatch(
        r"\d{8}", text
    ):  # 20260131 is a date
        number = Decimal(text)
        if number.adjusted() > 30:
            raise ValueError(f"{value} is not a time")
        return max(-INT64, min(int(number * next(scale for least, scale in UNITS if abs(number) >= least)), INT64))
    if re.match(r"[+]?\d{5,}-\d", text):  # later than Python knows
        return INT64
    time = None
    iso = re.sub(r"\s*(UTC|GMT|Z)$", "+00:00", text, flags=re.IGNORECASE)
    with suppress(ValueError):
        time = datetime.fromisoformat(re.sub(r"\s+([+-]\d\d:?\d\d)$", r"\1", iso))
    if time is None:
        try:
            time = parsedate_to_datetime(text)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{value} is not a time") from error
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (time - EPOCH) // timedelta(microseconds=1)


def _text(value: Any) -> str:
    text = str(value).strip()
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters, too many for a number or a time")
    return text


def _is_nothing(value: Any) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().lower() in NOTHING
