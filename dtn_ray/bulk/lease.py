"""The lease on an output folder: only one of several simultaneous runs works. Does not import Ray.

The lease is one record, lease.json, that changes only by compare-and-swap. Its holder renews it until the end. A run
that finds it expired may take it over; if several try, one succeeds.

Expiry uses the store's clock (S3's Date header, the file system's modification time), so the clocks of machines need
not agree. A record that somebody edited, or that another version wrote, counts as that of a live run until it has been
unchanged for the length of a lease, because a live run would have renewed it. A file that no version of dtn-ray could
have written is ignored.
"""

import contextlib
import json
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.storage.versions import NoConditionalWrites, Versioned
from dtn_ray.text.display import line

LONGEST = 86_400.0  # seconds
LARGEST = 1 << 16  # bytes; a larger file is not a lease
GRANULARITY = 5.0  # seconds by which a store's modification times may differ from its clock
SETTLE = 1.0  # seconds after which two unconditional writers see whose write was last
ATTEMPTS = 3  # to take a lease that other runs take and release at the same time

_ours = dict[str, bool]()
"""For each lease of this process, by its holder, whether it is held. The file of a released lease may still exist, if
the store's answer to the release was lost."""


class Held(UserError):
    """Another run holds the lease."""


class Lease:
    """A lease that this process holds; call `check` before every write that only one run may make."""

    def __init__(self, uri: str, seconds: float, conditional: bool = True) -> None:
        """Takes the lease, and renews it for `seconds` (at most LONGEST) at a time.

        `conditional` False: use plain writes, for stores without conditional writes; the user guarantees that no two
        runs start at the same time. If they do, one notices within seconds, or at the next renewal.

        Raises Held if another run holds the lease (with host, process and times), UserError if the store has no
        conditional writes, or if it refuses.
        """
        self.uri, self.seconds, self.conditional = uri, seconds, conditional
        self.version: str | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        began = time.time()
        found = storage.read_versioned(uri)
        skew = _skew(found.now, began, time.time())
        if abs(skew) > max(seconds / 2, GRANULARITY):
            _warn(uri, skew)
        self._to_store = skew + time.time() - _monotonic()
        self.record: dict[str, Any] = {
            "holder": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self._now(),
        }
        holder = self.record["holder"]
        _ours[holder] = True
        try:
            self._take(found)
        except UserError as error:
            _ours[holder] = False
            if not isinstance(error, NoConditionalWrites):
                raise
            raise UserError(
                f"{error}. A run needs conditional writes to keep other runs out of OUT. Choose an OUT in a store that "
                "has them (docs/reference/stores.md lists some) or in a local folder; or, if you make sure yourself "
                "that no two runs start on OUT at once, pass --unconditional-lease"
            ) from error
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def _take(self, found: Versioned) -> None:
        for _ in range(ATTEMPTS):
            if _ends(found, self.seconds) > self._now():
                raise Held(self._held(found))
            if self._take_over(found):
                return
            found = storage.read_versioned(self.uri)
        raise UserError(f"{self.uri}: other runs keep taking this lease; start one run at a time")

    def _take_over(self, found: Versioned) -> bool:
        """Tries to take a lease that has expired or does not exist; returns whether it succeeded."""
        try:
            if not self._write(found.version):
                return False
        except NoConditionalWrites:
            raise
        except UserError as error:
            if not found.version:
                raise
            raise UserError(
                f"the lease of {_whose(found)} has expired, but the store does not let this run take it: {error}"
            ) from error
        if not self.conditional:
            time.sleep(SETTLE)
            return self._is_ours(storage.read_versioned(self.uri))
        try:
            storage.require_conditional_writes(self.uri, json.dumps(self.record | {"expires": 0}).encode())
        except UserError:
            with contextlib.suppress(UserError):
                self._write(self.version, ended=True)
            raise
        return True

    def check(self) -> None:
        """Raises UserError if another run has taken the lease; renews it if it expired and nobody took it."""
        with self._lock:
            if self._now() < self.record["expires"]:
                return
            if not self._renew():
                raise UserError(
                    "this run lost its lease and ends without writing anything more: "
                    + self._held(storage.read_versioned(self.uri))
                )

    def release(self) -> None:
        """Gives the lease back, so that the next run can begin at once. Does nothing if another run has taken it."""
        self._end.set()
        self._heart.join()
        _ours[self.record["holder"]] = False
        with contextlib.suppress(UserError):  # else it expires by itself
            self._renew(ended=True)

    def _beat(self) -> None:
        while not self._end.wait(self.seconds / 4):
            # If the store fails, the next beat tries again; `check` notices if that was too late.
            with self._lock, contextlib.suppress(UserError):
                if not self._renew():
                    self.record["expires"] = 0
                    return

    def _renew(self, ended: bool = False) -> bool:
        """Rewrites this run's record; returns whether it was still there."""
        if self._write(self.version, ended):
            return True
        # The answer to an earlier write may have been lost, or somebody may have edited the record.
        found = storage.read_versioned(self.uri)
        return self._is_ours(found) and self._write(found.version, ended)

    def _is_ours(self, found: Versioned) -> bool:
        return _parse(found.content).get("holder") == self.record["holder"]

    def _write(self, version: str | None, ended: bool = False) -> bool:
        """Replaces the record of that version; returns False if the file has another version."""
        expires = 0 if ended else self._now() + self.seconds
        record = self.record | {"seconds": self.seconds, "expires": expires}
        content = json.dumps(record, indent=2).encode()
        written = storage.compare_and_swap(self.uri, version, content, self.conditional)
        if written is None:
            return False
        self.version, self.record = written, record
        return True

    def _now(self) -> float:
        """The store's clock, in seconds since 1970; independent of changes to this machine's clock."""
        return _monotonic() + self._to_store

    def _held(self, found: Versioned) -> str:
        ends, record = _ends(found, self.seconds), _parse(found.content)
        if not record:
            return f"{self.uri}: this file was deleted or overwritten"
        if ends <= self._now():
            return f"{self.uri}: another run took it: {_whose(found)}"
        who = f"{self.uri}: another run works here: {_whose(found)}"
        if str(record.get("holder")) in _ours:
            who += " (this same process)"
        elif (record.get("host"), record.get("pid")) == (self.record["host"], self.record["pid"]):
            who += (
                " (the same names as this run's: either a run in another container with this host name, or one that "
                "ended in this container before)"
            )
        until = f"its lease expires {_clock(ends)} if it is not renewed"
        if ends != record.get("expires"):
            until = (
                f"the time when its lease expires cannot be read ({str(record.get('expires'))[:40]!r}), so the lease "
                f"counts as valid until {_clock(ends)}, unless the file changes before"
            )
        return f"{who}; {until}. Wait for it, or choose another OUT."


@contextlib.contextmanager
def hold(uri: str, seconds: float, conditional: bool = True) -> Iterator[Lease]:
    """Holds the lease during a `with`, and releases it at its end. Raises as `Lease` does."""
    lease = Lease(uri, seconds, conditional)
    try:
        yield lease
    finally:
        lease.release()


def _ends(found: Versioned, seconds: float) -> float:
    """When a lease expires, by the store's clock; `seconds`: its length, if the record does not state it."""
    record = _parse(found.content)
    if not record or _ours.get(str(record.get("holder"))) is False:
        return 0
    expires, length = _number(record.get("expires")), _number(record.get("seconds"))
    if length is not None and not 0 < length <= LONGEST:
        length = None
    if expires is not None and expires <= found.modified + (length or LONGEST) + GRANULARITY:
        return expires
    return found.modified + (length or seconds)


def _skew(now: float, began: float, ended: float) -> float:
    """The least number of seconds by which the store's clock is ahead of ours.

    The store answered with the time `now`, in whole seconds, between our times `began` and `ended`.
    """
    return now - ended if now > ended else min(0.0, now + 1 - began)


def _warn(uri: str, skew: float) -> None:
    how = "behind" if skew > 0 else "ahead of"
    print(
        f"warning: this machine's clock is {abs(skew):.0f} s {how} that of the store of {line(uri)}. The lease uses "
        "the store's clock, but S3 refuses requests when the clocks are 15 minutes apart, and an older version of "
        "dtn-ray would take over a lease that is still held. Set this machine's clock (NTP).",
        file=sys.stderr,
    )


def _monotonic() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # also counts while the machine sleeps


def _parse(content: bytes) -> dict[str, Any]:
    """The record; empty if the file is absent or not a record."""
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(content[:LARGEST])
        if isinstance(record, dict):
            return record
    return {}


def _number(value: object) -> float | None:
    """A finite number, else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value) if math.isfinite(value) else None
    return None


def _whose(found: Versioned) -> str:
    """The holder of a lease in words, as far as the record has it."""
    record = _parse(found.content)
    pid, host = record.get("pid"), record.get("host")
    process = f"process {pid}" if isinstance(pid, int) else "a process"
    host = "".join(filter(str.isprintable, host[:80])) if isinstance(host, str) else ""
    return f"{process} on {host or 'an unknown host'}, since {_clock(_number(record.get('since')))}"


def _clock(seconds: float | None) -> str:
    with contextlib.suppress(TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds or math.nan, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return "an unknown time"
