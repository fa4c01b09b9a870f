"""A limit on the memory that all threads of a process together use for pixels."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """A total that threads share: each takes the amount it needs, and waits while too little is left."""

    def __init__(self, total: int) -> None:
        self.total = self.left = total
        self.changed = threading.Condition()

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Holds `count` for the block. A request larger than the total takes the whole budget.

        Do not nest `take`: two threads that each hold a part of the budget can deadlock."""
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
