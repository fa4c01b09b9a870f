"""How far an experiment is: what trainings report, and the time that is left."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.train import UserCallback
from tqdm import tqdm

from dtn_ray.experiments.grid import Training

Part = tuple[float, float]
"""Of a training, what was done when it started here, and what is done; each from 0 to 1."""


class Board:
    """Holds the part of each training that is done. An actor: controllers of trainings write it, the driver reads."""

    def __init__(self) -> None:
        self.parts: dict[str, Part] = {}

    def tell(self, key: str, part: Part) -> None:
        self.parts[key] = part

    def read(self) -> dict[str, Part]:
        return self.parts


class Told(UserCallback):
    """Tells the board of a training's reports."""

    def __init__(self, training: Training, board: Any) -> None:
        self.training, self.board = training, board

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        first = metrics[0]
        before, done = (self.training.done({**first, "step": first.get(name, 0)}) for name in ("resumed_at", "step"))
        self.board.tell.remote(self.training.key, (before, done))


def start_board() -> Any:
    return ray.remote(Board).options(num_cpus=0).remote()


@dataclass
class Times:
    """Estimates the time left from how long trainings of each kind took for their size."""

    at_once: int
    began: dict[str, float] = field(default_factory=dict)
    """When each of the trainings that run started, by key."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """By kind, for one unit of size, of trainings that ended."""

    def start(self, training: Training) -> None:
        self.began[training.key] = time.monotonic()

    def end(self, training: Training, part: Part) -> None:
        took = time.monotonic() - self.began.pop(training.key)
        if training.size and part[0] < 1:
            self.seconds.setdefault(training.kind, []).append(took / (training.size * (1 - part[0])))

    def left(self, trainings: Sequence[Training], parts: Mapping[str, Part]) -> float | None:
        """Seconds until all `trainings`, which have not ended, will have; None where nothing tells yet.

        `parts`: of those that run, by key. A kind that nothing is known of counts as the others do on average.
        """
        each = {kind: sum(found) / len(found) for kind, found in self.seconds.items()}
        for training in trainings:
            before, done = parts.get(training.key, (0.0, 0.0))
            if training.kind not in each and done > before and training.size and training.key in self.began:
                each[training.kind] = (time.monotonic() - self.began[training.key]) / (done - before) / training.size
        known = [each[t.kind] * t.size * (1 - parts.get(t.key, (0.0, 0.0))[1]) for t in trainings if t.kind in each]
        if not known:
            return None if trainings else 0.0
        unknown = len(trainings) - len(known)
        return (sum(known) + unknown * sum(known) / len(known)) / min(self.at_once, len(trainings))


def line(title: str, ended: int, total: int, left: float | None, running: Mapping[str, float]) -> str:
    """A line such as `table1 3/21 · 41:02 left · dtn-…-seed3 45 %  dtn-…-seed4 12 %`."""
    time_left = "?" if left is None else tqdm.format_interval(left)
    shown = "  ".join(f"{name} {part:.0%}" for name, part in running.items())
    return f"{title} {ended}/{total} · {time_left} left" + (f" · {shown}" if shown else "")
