"""One progress line for everything long: done, rate, time left."""

import time
from collections.abc import Mapping

from tqdm import tqdm


class Progress:
    """Prints lines such as `dtn 450/6000 · 143 images/s · 41:02 left · L_d 0.52`; plain lines survive any log.

    `start` and `total` count steps, of which each handles `per_step` images.
    """

    def __init__(self, title: str, start: int, total: int, per_step: int, *, quiet: bool = False) -> None:
        self.title, self.total, self.per_step, self.quiet = title, total, per_step, quiet
        self.start, self.began = start, time.perf_counter()
        if not quiet and start:
            print(f"{title}: resumed at step {start} of {total}", flush=True)

    def update(self, step: int, values: Mapping[str, float]) -> float:
        """Prints the line for `step` steps done, and returns the images per second since the start."""
        rate = (step - self.start) / (time.perf_counter() - self.began)
        if not self.quiet:
            left = tqdm.format_interval((self.total - step) / rate) if rate else "?"
            shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
            print(
                f"{self.title} {step}/{self.total} · {rate * self.per_step:.0f} images/s · {left} left · {shown}",
                flush=True,
            )
        return rate * self.per_step
