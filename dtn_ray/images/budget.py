"""How much memory all threads of a process may take for pixels."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """So many of something, of which each thread takes what it needs, and waits until others give it back."""

    def __init__(self, total: int) -> None:
        self.total = self.left = total
        self.changed = threading.Condition()

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """More than there are in all count as all of them. To take some while holding others can wait for ever."""
        count = min(count, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.left >= count)
            self.left -= count
        try:
            yield
        finally:
            with self.changed:
                self.left += count
                self.changed.notify_all()
