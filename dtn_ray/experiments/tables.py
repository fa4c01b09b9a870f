"""From cells to a table: mean, standard deviation and interval of each row, as Markdown and JSON."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtn_ray.evaluate.ranking import wilson
from dtn_ray.experiments.grid import Cell, Row, Table


@dataclass(frozen=True)
class Line:
    """A row's numbers, over the cells that are measured."""

    row: Row
    values: Sequence[float]
    """Of each cell that is measured."""
    images: int
    failures: Sequence[str]
    """Why cells are missing, for those that failed."""
    seen: Sequence[str] = ()
    """Why the accuracy is not one of images that training did not see."""

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds (n - 1); None for less than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the mean, for as many images as one cell has: other seeds add no images."""
        return None if self.mean is None else wilson(self.mean, self.images)


@dataclass(frozen=True)
class Results:
    """A table's lines, and where its cells are."""

    lines: Sequence[Line]
    values: Mapping[str, Mapping[str, Any]]
    """Of the cells that are measured, by key."""
    cells: str
    """URI of the folder with the files of cells."""

    def picture(self, cell: Cell, name: str) -> str:
        """The URI of one of its pictures."""
        return f"{self.cells}/{cell.name}-{name}.png"


def results(table: Table, values: Mapping[str, Mapping[str, Any]], failures: Mapping[str, str], cells: str) -> Results:
    """The lines of a table. `values` and `failures`: of cells, by key; `cells`: the folder of their files."""
    lines = []
    for row in table.rows:
        rates = [row.read(values[cell.key]) for cell in row.cells if cell.key in values]
        why = [failures[cell.key] for cell in row.cells if cell.key in failures]
        seen = [
            reason
            for cell in row.cells
            for reason in values.get(cell.key, {}).get("seen_in_training", {}).get("accuracy", [])
        ]
        images = rates[0].images if rates else 0
        lines.append(Line(row, [rate.value for rate in rates], images, why, list(dict.fromkeys(seen))))
    return Results(lines, values, cells)


def markdown(table: Table, found: Results) -> str:
    """The table as a page of Markdown."""
    parts = [f"# {table.title}", ""]
    parts += ["| | accuracy, mean ± standard deviation | each seed | images | 95 % interval | the paper |"]
    parts += ["|---|---|---|---|---|---|", *map(_line, found.lines), ""]
    notes = []
    for line in found.lines:
        notes += [f"- {line.row.title}: failed: {_escaped(why)}" for why in dict.fromkeys(line.failures)]
        notes += [f"- {line.row.title}: not measured on unseen images: {_escaped(why)}" for why in line.seen]
    parts += [*notes, ""] if notes else []
    parts += [f"![{table.title}]({table.name}.png)", "", *(f"- {text}" for text in table.caption), ""]
    return "\n".join(parts)


def _line(line: Line) -> str:
    row = line.row
    mean = "not measured yet" if line.mean is None else percent(line.mean)
    if line.failures and line.mean is None:
        mean = "failed"
    if line.deviation is not None:
        mean += f" ± {100 * line.deviation:.2f}"
    if 0 < len(line.values) < len(row.cells):
        mean += f" ({len(line.values)} of {len(row.cells)} seeds)"
    each = ", ".join(f"{100 * value:.2f}" for value in line.values) if len(row.cells) > 1 else ""
    interval = "" if line.interval is None else "{:.1f} to {:.1f}".format(*(100 * bound for bound in line.interval))
    images = f"{line.images:,}" if line.images else ""
    paper = "" if row.paper is None else percent(row.paper)
    return f"| {_escaped(row.title)} | {mean} | {each} | {images} | {interval} | {paper} |"


def as_json(table: Table, found: Results, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The table as plain values, with the files of each cell."""
    return {
        "table": table.name,
        "title": table.title,
        "caption": list(table.caption),
        "rows": [
            {
                "title": line.row.title,
                "mean": line.mean,
                "standard_deviation": line.deviation,
                "values": list(line.values),
                "images": line.images,
                "interval_95": line.interval and list(line.interval),
                "paper": line.row.paper,
                "failures": list(line.failures),
                "seen_in_training": list(line.seen),
                "cells": [
                    {
                        "file": f"cells/{cell.name}.json",
                        "trainings": [f"trainings/{each.name}" for each in cell.of if each.kind != "given"],
                        "measured": cell.key in found.values,
                    }
                    for cell in line.row.cells
                ],
            }
            for line in found.lines
        ],
        **facts,
    }


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
