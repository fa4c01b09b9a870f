"""Trains and measures what is missing of a grid, as many at once as the cluster has room for.

OUT/trainings/<name>/    the run of each training; its result.json says that it is trained
OUT/cells/<name>.json    what each cell measured, and beside it its pictures, NAME-PICTURE.png

Both are kept by name, which is made from all that decides the result: nothing is trained or measured twice.
"""

import io
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from PIL import Image

from dtn_ray import storage
from dtn_ray.errors import UserError, reason
from dtn_ray.experiments.grid import Cell, Training, closure
from dtn_ray.experiments.progress import Part, Times, Told, line, start_board
from dtn_ray.ray_cluster import ray_train_console
from dtn_ray.ray_cluster.connect import causes, connect, trainings_at_once
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.report import use_assigned_cpus
from dtn_ray.storage import json_files

TRAININGS, CELLS = "trainings", "cells"
MEMORY = 2.0**28  # bytes of a task that leads a training; its CPUs and GPUs are its workers'
LINE_SECONDS = 30.0  # between progress lines, where nothing ends
FIELDS = ("cell", "measure", "values")


@dataclass
class Outcome:
    """What became of a cell."""

    values: dict[str, Any] | None = None
    failure: str | None = None


class Runner:
    """Runs the cells of one table. `run`: where and how each training runs; its storage is OUT."""

    def __init__(self, title: str, run: Run, concurrent: int | None = None) -> None:
        self.title, self.run, self.concurrent = title, run, concurrent
        self.out = storage.absolute(run.storage)  # tasks run elsewhere
        self.checkpoints: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.prepared: dict[str, Any] = {}
        self.running: dict[ray.ObjectRef, Training | Cell] = {}

    def __call__(self, cells: Sequence[Cell], told: Callable[[Mapping[str, Outcome]], object]) -> dict[str, Outcome]:
        """The outcomes of all cells by key; `told` is called with those there are, at first and after each.

        A training that fails ends the cells that need it, and no others. Raises UserError before anything starts where
        settings cannot be meant, a cell's file is damaged, or the cluster has no room for one training.
        """
        self.outcomes = {cell.key: found for cell in cells if (found := self._earlier(cell)) is not None}
        told(self.outcomes)
        left: list[Training | Cell] = [cell for cell in cells if cell.key not in self.outcomes]
        if not left:
            return self.outcomes
        trainings = self._missing(closure([each for cell in left if isinstance(cell, Cell) for each in cell.of]))
        for training in trainings:
            training.check(self.run)
        left = [*trainings, *left]
        connect(trains=True)
        spare = max((training.spare for training in trainings), default=0.0)
        at_once = trainings_at_once(1, self.run.cpus_per_worker, self.run.gpu, self.concurrent, spare)
        self.times = Times(at_once)
        self.board, self.total = start_board(), len(left)
        print(f"{self.title}: {len(trainings)} trainings and {len(left) - len(trainings)} measurements to do, "
              f"{self.times.at_once} at once", flush=True)  # fmt: skip
        while left or self.running:
            left = self._start(left)
            self._collect(left, told)
        return self.outcomes

    # ── What there is ─────────────────────────────────────────────────────────────────────────────────────────────

    def _earlier(self, cell: Cell) -> Outcome | None:
        uri = storage.join(self.out, CELLS, f"{cell.name}.json")
        if not storage.exists(uri):
            return None
        found = json_files.read_object(uri)
        if not found.keys() >= set(FIELDS) or not isinstance(found["values"], dict):
            raise UserError(f"{uri}: not the JSON of a cell; delete it, and the same command measures it again")
        return Outcome(found["values"])

    def _missing(self, trainings: Sequence[Training]) -> list[Training]:
        """Those that have to be trained; of the others it enters the checkpoints."""
        missing = []
        for training in trainings:
            checkpoint = training.trained(storage.join(self.out, TRAININGS, training.name))
            if checkpoint is None:
                missing.append(training)
            else:
                self.checkpoints[training.key] = checkpoint
        return missing

    # ── What is done ──────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, left: list[Training | Cell]) -> list[Training | Cell]:
        """Starts what can be, cells first, and trainings for whom the data is there already. Returns the others."""
        waiting = []
        for each in sorted(left, key=self._turn):
            needs = each.of if isinstance(each, Cell) else each.needs
            if failed := [self.failures[need.key] for need in needs if need.key in self.failures]:
                self._fail(each, failed[0])
            elif len(self.running) >= self.times.at_once or not all(n.key in self.checkpoints for n in needs):
                waiting.append(each)
            else:
                self._launch(each)
        wanted = {each.shares for each in (*waiting, *self.running.values()) if isinstance(each, Training)}
        self.prepared = {name: ready for name, ready in self.prepared.items() if name in wanted}
        return waiting

    def _turn(self, each: Training | Cell) -> int:
        return 0 if isinstance(each, Cell) else 1 if each.shares in self.prepared else 2

    def _launch(self, each: Training | Cell) -> None:
        address = {"env_vars": ray_train_console.addresses()}
        if isinstance(each, Cell):
            measure = ray.remote(_measure).options(num_cpus=1, num_gpus=int(self.run.gpu), runtime_env=address)
            self.running[measure.remote(each, [self.checkpoints[need.key] for need in each.of], self.out)] = each
            return
        run = replace(self.run, storage=storage.join(self.out, TRAININGS), name=each.name)
        checkpoints = {need.key: self.checkpoints[need.key] for need in each.needs}
        if each.shares is not None and each.shares not in self.prepared:
            try:
                self.prepared[each.shares] = each.prepare(checkpoints, run)
            except UserError as error:
                self._fail(each, str(error))
                return
        self.times.start(each)
        train = ray.remote(_train).options(num_cpus=0, memory=MEMORY, runtime_env=address)
        ready = self.prepared.get(each.shares) if each.shares else None
        self.running[train.remote(each, checkpoints, run, ready, self.board)] = each

    def _collect(self, left: Sequence[Training | Cell], told: Callable[[Mapping[str, Outcome]], object]) -> None:
        """Waits until something ends, or for some seconds, and prints how far all is."""
        if not self.running:
            return
        ended = ray.wait(list(self.running), timeout=LINE_SECONDS)[0]
        parts: dict[str, Part] = ray.get(self.board.read.remote())
        for task in ended:
            each = self.running.pop(task)
            try:
                with causes():
                    made = ray.get(task)
            except Exception as error:  # one failure must not end the others
                if not isinstance(error, UserError):
                    traceback.print_exception(error)
                self._fail(each, reason(error))
                continue
            if isinstance(each, Cell):
                self.outcomes[each.key] = Outcome(made)
                told(self.outcomes)
            else:
                self.times.end(each, parts.get(each.key, (0.0, 1.0)))
                self.checkpoints[each.key] = made
        unfinished = [each for each in (*self.running.values(), *left) if isinstance(each, Training)]
        shown = {each.name: parts.get(each.key, (0.0, 0.0))[1] for each in unfinished if each in self.running.values()}
        done = self.total - len(left) - len(self.running)
        print(line(self.title, done, self.total, self.times.left(unfinished, parts), shown), flush=True)

    def _fail(self, each: Training | Cell, why: str) -> None:
        if isinstance(each, Cell):
            self.outcomes[each.key] = Outcome(failure=why)
            return
        if each.key not in self.failures:
            print(f"{each.name} failed: {why}", flush=True)
        self.failures[each.key] = why


def _train(training: Training, checkpoints: dict[str, str], run: Run, prepared: Any, board: Any) -> str:
    """A task of Ray's: leads a training, and returns its checkpoint's URI."""
    return training.train(checkpoints, run, prepared, [Told(training, board)])


def _measure(cell: Cell, checkpoints: Sequence[str], out: str) -> dict[str, Any]:
    """A task of Ray's: measures a cell and writes its files, the JSON last. Returns the values."""
    use_assigned_cpus()
    began = time.monotonic()
    measured = cell.measure(*checkpoints, **cell.settings)
    place = storage.join(out, CELLS, cell.name)
    for name, pixels in measured.pictures.items():
        storage.write_bytes(f"{place}-{name}.png", _png(pixels), "image/png", root=out)
    record = {
        "cell": cell.name,
        "measure": cell.measure.__name__,
        "of": {each.name: uri for each, uri in zip(cell.of, checkpoints, strict=True)},
        "settings": dict(cell.settings),
        "values": measured.values,
        "seconds": round(time.monotonic() - began, 1),
    }
    content = json.dumps(record, indent=2).encode()
    storage.write_bytes(f"{place}.json", content, "application/json", root=out)
    return json.loads(content)["values"]


def _png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(content, format="png")
    return content.getvalue()
