"""Trainings, cells, rows and tables, as values.

A table has rows; a row has cells, one for each seed; a cell is one measurement of trainings. What two of them share is
equal by its `key`, and is trained and measured once. This module imports neither torch nor Ray.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dtn_ray.resumable.options import Run
from dtn_ray.settings import to_dict

if TYPE_CHECKING:
    from ray.train import UserCallback

Checkpoints = Mapping[str, str]
"""URIs of checkpoints, by the keys of their trainings."""


@dataclass(frozen=True)
class Training(ABC):
    """Something that is trained, once for all who need it. A subclass is a frozen dataclass.

    Its fields decide the result: settings (dataclasses, plain values) and other trainings that it needs. Methods import
    torch and Ray themselves.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def label(self) -> str:
        """A readable beginning of its name, such as `svhn-mnist-seed0`."""

    @property
    def key(self) -> str:
        """Eight hex digits that change when anything does that decides the result."""
        return _digest({"kind": self.kind, **{each.name: _plain(getattr(self, each.name)) for each in fields(self)}})

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.kind}-{self.label}-{self.key}"

    def trained(self, folder: str) -> str | None:
        """The URI of its checkpoint if it is trained already, in its `folder`; else None."""
        from dtn_ray import storage
        from dtn_ray.checkpoints import run_result

        return run_result.read(folder)[0] if storage.exists(storage.join(folder, run_result.NAME)) else None

    @property
    def needs(self) -> "tuple[Training, ...]":
        """The trainings whose checkpoints it needs."""
        values = (getattr(self, each.name) for each in fields(self))
        return tuple(value for value in values if isinstance(value, Training))

    @property
    def size(self) -> float:
        """How long it takes, compared with others of its kind, such as its number of steps."""
        return 1.0

    @property
    def spare(self) -> float:
        """CPUs that it leaves to tasks that its worker waits for."""
        return 0.0

    def check(self, run: Run) -> None:  # noqa: B027 (few need it)
        """Called before anything is trained. Raises UserError for settings that cannot be meant."""

    @property
    def shares(self) -> str | None:
        """Trainings with the same value share what `prepare` makes; None where there is nothing to prepare."""
        return None

    def prepare(self, checkpoints: Checkpoints, run: Run) -> Any:
        """Called in the driver, once for all trainings of the same `shares`: reads data into Ray's object store."""
        return None

    @abstractmethod
    def train(self, checkpoints: Checkpoints, run: Run, prepared: Any, callbacks: "Sequence[UserCallback]") -> str:
        """Trains it in the folder `run.storage`/`run.name`, or continues it; returns the checkpoint's URI.

        Raises UserError for bad settings, files or resources, or where the training fails for good.
        """

    def done(self, metrics: Mapping[str, Any]) -> float:
        """The part of the training, from 0 to 1, that is done by one of its reports."""
        return 0.0


@dataclass(frozen=True)
class Measured:
    """Outcome of a measurement."""

    values: dict[str, Any]
    """Plain values for the cell's JSON."""
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    """Images to show, C×H×W uint8 by name; each becomes a PNG beside the JSON."""


@dataclass(frozen=True)
class Cell:
    """One measurement of trainings."""

    measure: Callable[..., Measured]
    """A function of a module. It is called with the URIs of the checkpoints of `of`, in order, and with `settings` as
    keywords, in a task of Ray's."""
    of: tuple[Training, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Plain values."""

    @property
    def key(self) -> str:
        """Eight hex digits that change when anything does that decides the result."""
        measure = f"{self.measure.__module__}.{self.measure.__qualname__}"
        return _digest({"measure": measure, "of": [each.key for each in self.of], "settings": dict(self.settings)})

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.measure.__name__}-{self.of[0].label}-{self.key}"


@dataclass(frozen=True)
class Rate:
    """A share of images, such as an accuracy."""

    value: float
    images: int


def accuracy(values: Mapping[str, Any]) -> Rate:
    """The accuracy that a cell measured."""
    return Rate(values["accuracy"], values["images"])


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    title: str
    cells: tuple[Cell, ...]
    """One for each seed, or a single one where there is nothing random."""
    paper: float | None = None
    """The paper's number, if it has one."""
    read: Callable[[Mapping[str, Any]], Rate] = accuracy
    """What of a cell's values the row shows."""
    picture: str = "G_x"
    """Which of the first cell's pictures stands for the row, if it has this one."""


@dataclass(frozen=True)
class Table:
    """A table, or the numbers under a figure."""

    name: str
    """Of its files: NAME.md, NAME.json and NAME.png."""
    title: str
    rows: Sequence[Row]
    caption: Sequence[str] = ()
    """Lines below it: what was trained on what."""
    draw: Callable[..., bytes] | None = None
    """Makes the picture, a PNG, from the table and `tables.Results`; by default rows as points beside samples."""

    @property
    def cells(self) -> list[Cell]:
        """Each cell once, those of the first seed of all rows first."""
        longest = max((len(row.cells) for row in self.rows), default=0)
        found = [row.cells[i] for i in range(longest) for row in self.rows if i < len(row.cells)]
        return list({cell.key: cell for cell in found}.values())


def closure(trainings: Sequence[Training]) -> list[Training]:
    """The trainings and all that they need, each once, after what it needs."""
    found: dict[str, Training] = {}
    for training in trainings:
        for each in (*closure(training.needs), training):
            found.setdefault(each.key, each)
    return list(found.values())


def readable(text: str) -> str:
    """A part of a file's name, made of any text."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[-60:]


def _plain(value: Any) -> Any:
    if isinstance(value, Training):
        return value.key
    return to_dict(value) if is_dataclass(value) else value


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
