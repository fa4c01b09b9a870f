"""The progress line of every long task: done, rate, time left."""

import time
from collections.abc import Mapping

from tqdm import tqdm


class Progress:
    """Prints lines such as `dtn 450/6000 · 143 images/s · 41:02 left · L_d 0.52`; plain lines survive any log.

    `start` and `total` count steps of `per_step` images.
    """

    def __init__(self, title: str, start: int, total: int, per_step: int, *, quiet: bool = False) -> None:
        self.title, self.total, self.per_step, self.quiet = title, total, per_step, quiet
        self.step, self.time, self.rate = start, time.perf_counter(), 0.0
        if not quiet and start:
            print(f"{title}: resumed at step {start} of {total}", flush=True)

    def update(self, step: int, values: Mapping[str, float]) -> float:
        """Prints the line for `step` steps done, and returns the images per second, averaged over the last lines."""
        now = time.perf_counter()
        if step > self.step:
            latest = (step - self.step) / (now - self.time)
            self.rate = 0.7 * self.rate + 0.3 * latest if self.rate else latest
            self.step, self.time = step, now
        if not self.quiet:
            left = tqdm.format_interval((self.total - step) / self.rate) if self.rate else "?"
            shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
            print(
                f"{self.title} {step}/{self.total} · {self.rate * self.per_step:.0f} images/s · {left} left · {shown}",
                flush=True,
            )
        return self.rate * self.per_step
