"""The lease on an output folder: of two runs at once, one works. Knows no Ray.

One record, lease.json, that only changes by compare-and-swap, and that its holder renews until the end. Who finds it
expired may take it over, and of several who try one succeeds. Expiry goes by the machines' clocks: they must agree to
well within `seconds`.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from dtn_ray import storage
from dtn_ray.errors import UserError


class Lease:
    """A lease that is held; `check` before every write that two runs must not both make."""

    def __init__(self, uri: str, seconds: float) -> None:
        """Takes the lease. Raises UserError where another run holds it: by whom, since and until when."""
        self.uri, self.seconds = uri, seconds
        self.record: dict[str, Any] = {
            "holder": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.time(),
        }
        self.version: str | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        content, version = storage.read_versioned(uri)
        found = _parse(content)
        if found.get("expires", 0) > time.time() or not self._write(version, time.time() + seconds):
            raise UserError(self._held())
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def check(self) -> None:
        """Raises UserError if the lease is lost; renews one that expired but that nobody took."""
        with self._lock:
            if time.time() < self.record["expires"]:
                return
            if not self._write(self.version, time.time() + self.seconds):
                raise UserError(f"the lease is lost, and this run ends without another write: {self._held()}")

    def release(self) -> None:
        """Lets the next run begin at once. A lease that was lost meanwhile is left to its holder."""
        self._end.set()
        self._heart.join()
        with contextlib.suppress(UserError):  # else it expires by itself
            self._write(self.version, 0)

    def _beat(self) -> None:
        while not self._end.wait(self.seconds / 4):
            # A store that fails is asked again at the next beat: `check` notices when it is too late.
            with self._lock, contextlib.suppress(UserError):
                if not self._write(self.version, time.time() + self.seconds):
                    self.record["expires"] = 0
                    return

    def _write(self, version: str | None, expires: float) -> bool:
        """Whether the record could be put in the place of the one of that version."""
        record = self.record | {"expires": expires}
        written = storage.compare_and_swap(self.uri, version, json.dumps(record, indent=2).encode())
        if written is None:
            # The answer to a write may get lost after the write: then it is this run's own record that is in the way.
            content, found = storage.read_versioned(self.uri)
            if _parse(content) != record:
                return False
            written = found
        self.version, self.record = written, record
        return True

    def _held(self) -> str:
        holder = _parse(storage.read_versioned(self.uri)[0])
        return (
            f"{self.uri}: another run works here: process {holder.get('pid')} on {holder.get('host')}, since "
            f"{_clock(holder.get('since', 0))}; its lease expires {_clock(holder.get('expires', 0))} if it is not "
            "renewed. Wait for it, or choose another OUT."
        )


@contextlib.contextmanager
def hold(uri: str, seconds: float) -> Iterator[Lease]:
    """Holds the lease during a `with`, however it ends."""
    lease = Lease(uri, seconds)
    try:
        yield lease
    finally:
        lease.release()


def _parse(content: bytes) -> dict[str, Any]:
    """The record; an empty one where it is absent or nobody's."""
    with contextlib.suppress(ValueError):
        record = json.loads(content)
        if isinstance(record, dict):
            return record
    return {}


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
