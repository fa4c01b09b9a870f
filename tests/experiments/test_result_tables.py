"""Cells → rows → Markdown, JSON and pictures, against numbers worked out by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from dtn_ray.experiments import figures
from dtn_ray.experiments.grid import Cell, Row, Table
from dtn_ray.experiments.measures import strip, transfer
from dtn_ray.experiments.tables import as_json, markdown, results
from dtn_ray.experiments.trainings import Given


def cells(name: str, number: int) -> tuple[Cell, ...]:
    return tuple(Cell(transfer, (Given(f"{name}{i}" + 60 * "0", "elsewhere", 1.0),), {"i": i}) for i in range(number))


A, B, C = cells("a", 3), cells("b", 2), cells("c", 1)
TABLE = Table(
    "numbers", "Some numbers", [Row("a | b", A, 0.9), Row("some of B", B), Row("failed", C, 0.1)], ["A caption."]
)
VALUES = {A[0].key: 0.9, A[1].key: 0.8, A[2].key: 0.7, B[1].key: 0.5}


@pytest.fixture
def found():
    values = {key: {"accuracy": value, "images": 1000} for key, value in VALUES.items()}
    return results(TABLE, values, {C[0].key: "no such file"}, "cells")


def test_a_row_has_mean_deviation_and_the_interval_of_one_set_of_images(found):
    first, second, third = found.lines
    assert first.mean == pytest.approx(0.8) and first.deviation == pytest.approx(0.1)
    # Wilson's for 800 of 1,000, not of 3,000.
    n, p, z = 1000, 0.8, 1.959964
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    assert first.interval == pytest.approx((low, high))
    assert second.mean == 0.5 and second.deviation is None
    assert third.mean is None and third.interval is None


def test_the_page_has_the_papers_numbers_beside_and_says_what_is_missing(found):
    lines = markdown(TABLE, found).splitlines()
    assert "| a \\| b | 80.00 % ± 10.00 | 90.00, 80.00, 70.00 | 1,000 | 77.4 to 82.4 | 90.00 % |" in lines
    assert "| some of B | 50.00 % (1 of 2 seeds) | 50.00 | 1,000 | 46.9 to 53.1 |  |" in lines
    assert "| failed | failed |  |  |  | 10.00 % |" in lines
    assert "- failed: failed: no such file" in lines and "- A caption." in lines


def test_a_table_of_which_nothing_is_measured_is_a_page_too():
    empty = results(TABLE, {}, {}, "cells")
    assert markdown(TABLE, empty).count("not measured yet") == 3
    assert [row["mean"] for row in as_json(TABLE, empty, {})["rows"]] == [None] * 3
    assert Image.open(io.BytesIO(figures.rows(TABLE, empty))).size[0] > 500


def test_json_names_the_file_of_each_cell(found):
    rows = as_json(TABLE, found, {"hardware": "none"})["rows"]
    assert [cell["file"] for cell in rows[0]["cells"]] == [f"cells/{cell.name}.json" for cell in A]
    assert [cell["measured"] for cell in rows[1]["cells"]] == [False, True]
    assert rows[2]["failures"] == ["no such file"]


def test_an_accuracy_on_images_that_training_saw_is_said_to_be_one():
    values = {cell.key: {"accuracy": 0.5, "images": 10, "seen_in_training": {"accuracy": ["f saw them"]}} for cell in A}
    seen = results(TABLE, values, {}, "cells")
    assert markdown(TABLE, seen).count("- a | b: not measured on unseen images: f saw them") == 1
    assert [row["seen_in_training"] for row in as_json(TABLE, seen, {})["rows"]] == [["f saw them"], [], []]


def images(*levels: int) -> np.ndarray:
    """N×1×32×32 uint8 of even gray."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 1, 32, 32)).copy()


def save(folder, cell: Cell, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(strip(pixels).transpose(1, 2, 0)).save(folder / f"{cell.name}-{name}.png")


def test_figure_3_sorts_all_panels_by_the_first_rows_probabilities(tmp_path, monkeypatch):
    dtn, other = cells("d", 1)[0], cells("e", 1)[0]
    save(tmp_path, dtn, "x", images(10, 20, 30))
    save(tmp_path, dtn, "G_x", images(110, 120, 130))
    save(tmp_path, other, "G_x", images(210, 220, 230))
    values = {dtn.key: {"accuracy": 1.0, "images": 3, "probabilities": [0.2, 0.1, 0.9]}}
    values[other.key] = {"accuracy": 0.0, "images": 3, "probabilities": [0.0, 0.9, 0.0]}
    table = Table("figure3", "3", [Row("DTN", (dtn,)), Row("without", (other,))])
    shown = []
    monkeypatch.setattr(figures, "_grid", lambda images: shown.append(images[:, 0, 0, 0].tolist()) or images[0])
    figures.panels(table, results(table, values, {}, str(tmp_path)))
    assert shown == [[30, 10, 20], [130, 110, 120], [230, 210, 220]]


def test_a_panel_has_six_columns_and_white_where_images_are_missing():
    grid = figures._grid(np.stack([np.full((32, 32, 3), level, np.uint8) for level in range(7)]))
    assert grid.shape == (64, 192, 3)
    assert grid[::32, ::32, 0].tolist() == [[0, 1, 2, 3, 4, 5], [6, 255, 255, 255, 255, 255]]


def test_a_picture_shows_samples_beside_the_rows(tmp_path):
    values = {cell.key: {"accuracy": 0.5, "images": 10} for cell in A}
    save(tmp_path, A[0], "x", images(*range(0, 160, 10)))
    save(tmp_path, A[0], "G_x", images(*range(0, 160, 10)))
    wide = Image.open(io.BytesIO(figures.rows(TABLE, results(TABLE, values, {}, str(tmp_path)))))
    narrow = Image.open(io.BytesIO(figures.rows(TABLE, results(TABLE, values, {}, str(tmp_path / "none")))))
    assert wide.width > narrow.width
