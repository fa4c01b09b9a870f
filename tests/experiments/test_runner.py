"""Tables that are really trained and measured, on the shared Ray; and one whose driver is killed."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import JOBS
from PIL import Image

from dtn_ray import storage
from dtn_ray.bulk import lease
from dtn_ray.data.digits.load import load
from dtn_ray.errors import UserError
from dtn_ray.experiments import job, measures, runner
from dtn_ray.experiments.grid import Cell, Row, Table
from dtn_ray.experiments.job import make
from dtn_ray.experiments.options import Options
from dtn_ray.experiments.trainings import Transfer, given
from dtn_ray.perceptual.load import load_classifier
from dtn_ray.perceptual.measure import predict
from dtn_ray.train.trained import load_trained

T = {"dataset": "handwritten-digits", "split": "test", "data_dir": None}


def times(folder: Path, pattern: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.glob(pattern))}


@pytest.fixture(scope="module")
def tables(experiment):
    """A table of a DTN, f on t, and a cell whose data is missing; and one without the last."""
    f = given(experiment.model.f)
    dtn = Transfer(experiment.changed(f=None, judge=None, seed=1), f, f)
    rows = [
        Row("DTN", (Cell(measures.transfer, (dtn,), {"test_split": "test"}),), 0.9),
        Row("f on t", (Cell(measures.classifier, (f,), T),)),
    ]
    failing = Row("bad", (Cell(measures.classifier, (f,), T | {"dataset": "mnist", "data_dir": "/nowhere"}),))
    return Table("both", "Both", [failing, *rows]), Table("good", "Good", rows, ["A caption."])


@pytest.fixture(scope="module")
def made_tables(tables, tmp_path_factory):
    """The folder after both; the error of the first; times of files between the two; what the second returned."""
    out = tmp_path_factory.mktemp("experiments")
    options = Options(out=str(out), concurrent=1)
    with pytest.raises(UserError) as failed:
        make(tables[0], options)
    between = times(out, "cells/*") | times(out, "trainings/*/result.json")
    returned = make(tables[1], options)
    return out, str(failed.value), between, returned


def test_a_cell_that_fails_is_named_and_the_others_are_measured(made_tables):
    out, error, between, _ = made_tables
    assert "1 of 3 cells failed: /nowhere/mnist/MNIST/raw/t10k-images-idx3-ubyte: no such file" in error
    page = (out / "both.md").read_text()
    assert "| bad | failed |" in page and "- bad: failed: /nowhere" in page
    rows = json.loads((out / "both.json").read_text())["rows"]
    assert [len(row["values"]) for row in rows] == [0, 1, 1]
    assert sum(name.endswith(".json") and "/cells/" in name for name in between) == 2


def test_settings_that_cannot_be_meant_end_all_before_anything_is_trained(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "connect", lambda *_, **__: pytest.fail("Ray was started"))
    [cell] = tables[1].rows[0].cells
    [dtn] = cell.of
    bad = replace(dtn, experiment=dtn.experiment.changed(binary=True))  # whose β is not 0
    table = Table("bad", "Bad", [tables[1].rows[0], Row("bad", (replace(cell, of=(bad,)),))])
    with pytest.raises(UserError, match=r"--binary is the baseline of Sec\. 3, which has no L_TID: it needs --beta 0"):
        make(table, Options(out=str(tmp_path)))
    assert not list(tmp_path.glob("*/*"))


def test_numbers_are_those_of_the_checkpoints(made_tables, tables, experiment):
    out, _, _, returned = made_tables
    rows = json.loads((out / "good.json").read_text())["rows"]
    assert [len(row["cells"]) for row in rows] == [1, 1]
    network, _ = load_classifier(experiment.model.f)
    t = load("handwritten-digits", "test")
    for cell, value in zip(rows[0]["cells"], rows[0]["values"], strict=True):
        trained = load_trained(str(out / cell["trainings"][0]))
        G_x = measures._transferred(trained, t.images)
        assert value == pytest.approx((predict(network, G_x) == t.labels).mean())
        assert trained.experiment.seed == 1
    assert rows[0]["mean"] == pytest.approx(np.mean(rows[0]["values"]))
    assert returned["rows"][0]["mean"] == rows[0]["mean"] and rows[0]["images"] == len(t)
    assert rows[0]["paper"] == 0.9 and rows[1]["paper"] is None


def test_the_trainings_are_those_of_jobs_train(made_tables, experiment):
    """The record of a run is that of the same experiment trained by itself: same f, data and settings."""
    out = made_tables[0]
    [record] = [path for path in out.glob("trainings/*seed1*/experiment.json")]
    assert json.loads(record.read_text())["config"]["optim"]["steps"] == experiment.optim.steps
    manifest = load_trained(str(record.parent)).manifest
    assert manifest["f_digest"] == given(experiment.model.f).digest and manifest["step"] == experiment.optim.steps


def test_a_second_table_trains_and_measures_nothing_that_is_there(made_tables):
    out, _, between, _ = made_tables
    assert between == times(out, "cells/*") | times(out, "trainings/*/result.json")


def test_pictures_lie_beside_the_numbers(made_tables, tables):
    out, *_ = made_tables
    assert min(Image.open(out / "good.png").size) > 100
    name = tables[1].rows[0].cells[0].name
    assert Image.open(out / f"cells/{name}-G_x.png").size == (16 * 32, 32)
    x = np.asarray(Image.open(out / f"cells/{name}-x.png"))
    t = load("handwritten-digits", "test").images
    assert (x[:, :32, 0] == t).all(axis=(1, 2, 3)).any() or any((x[:, :32, 0] == image[0]).all() for image in t)


def test_a_cell_without_its_json_is_measured_anew_alone(made_tables, tables, monkeypatch):
    out, *_ = made_tables
    cells, trained = times(out, "cells/*.json"), times(out, "trainings/*/result.json")
    gone = f"{out}/cells/{tables[1].rows[1].cells[0].name}.json"
    before = json.loads(Path(gone).read_text())
    os.remove(gone)
    make(tables[1], Options(out=str(out)))
    after = times(out, "cells/*.json")
    assert {name for name in cells if after[name] != cells[name]} == {gone}
    assert times(out, "trainings/*/result.json") == trained
    assert json.loads(Path(gone).read_text())["values"] == before["values"]


def test_a_whole_table_needs_no_Ray(made_tables, tables, monkeypatch):
    monkeypatch.setattr(runner, "connect", lambda *_, **__: pytest.fail("Ray was started"))
    out, *_ = made_tables
    assert make(tables[1], Options(out=str(out)))["rows"][0]["mean"] is not None


def test_a_damaged_cell_is_named(made_tables, tables):
    out, *_ = made_tables
    path = out / f"cells/{tables[1].rows[1].cells[0].name}.json"
    content = path.read_bytes()
    path.write_text('{"cell": 1}')
    try:
        with pytest.raises(UserError, match=r"not the JSON of a cell; delete it, and the same command measures"):
            make(tables[1], Options(out=str(out)))
    finally:
        path.write_bytes(content)


def test_files_of_others_are_not_overwritten(made_tables, tables, tmp_path):
    (tmp_path / "good.md").write_text("mine")
    with pytest.raises(UserError, match=r"good\.md: this exists, and dtn-ray did not write it"):
        make(tables[1], Options(out=str(tmp_path)))
    assert (tmp_path / "good.md").read_text() == "mine"


def test_two_experiments_do_not_work_in_one_folder_at_a_time(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "LEASE_SECONDS", 2.0)
    row = tables[1].rows[1]
    table, options = Table("f", "f", [row]), Options(out=str(tmp_path))
    with lease.hold(f"{tmp_path}/{job.LEASE}", 2.0), pytest.raises(UserError, match="another run works here"):
        make(table, options)
    assert not (tmp_path / "f.md").exists()
    killed = lease.Lease(f"{tmp_path}/{job.LEASE}", 2.0)
    killed._end.set()
    make(table, options)
    assert (tmp_path / "f.md").exists()


def test_a_table_may_lie_in_a_bucket(tables, bucket):
    row = tables[1].rows[1]
    table = Table("f", "f", [row])
    made = make(table, Options(out=f"{bucket}/experiments"))
    keys = sorted(storage.list_keys(f"{bucket}/experiments"))
    assert keys == [f"cells/{row.cells[0].name}.json", job.LEASE, "f.json", "f.md", "f.png"]
    assert json.loads(storage.read_bytes(f"{bucket}/experiments/f.json"))["rows"][0]["mean"] == made["rows"][0]["mean"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("table1", "--data-dir DIR, or use the embedded digits: --embedded"),
        ("table1 --embedded --seeds 0", "seeds"),
        ("table1 --embedded --width-g 0", "width_g"),
        ("table9 --embedded", "table9"),
        ("table1 --embedded --f /nowhere", "no checkpoint here"),
        ("table1 --embedded --f /nowhere --width-f 0.5", "--width-f: the width of f is that of the checkpoint"),
    ],
)
def test_an_experiment_that_cannot_be_meant_ends_at_once(call, line, message, tmp_path):
    code, out, err = call(f"experiment {line} --out {tmp_path}/out")
    assert code == 2 and message in " ".join((out + err).replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def command(name: str, classifier: str, folder: Path, *more: str) -> list[str]:
    """Small networks on the embedded digits."""
    return [
        *(
            sys.executable,
            str(JOBS / "experiment.py"),
            name,
            "--embedded",
            "--out",
            str(folder / "out"),
            "--seeds",
            "1",
        ),
        *("--f", classifier, "--judge", classifier, "--width-g", "0.0625", "--width-D", "0.125", "--batch-size", "16"),
        *("--seeds", "1", *more),
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_experiment_whose_driver_was_killed_goes_on_and_trains_nothing_twice(classifier, tmp_path):
    line = command("distances", classifier, tmp_path, "--steps", "60", "--checkpoint-every", "20")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}

    def ended() -> dict[str, int]:
        return times(tmp_path, "out/trainings/*/result.json")

    with subprocess.Popen(line, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 500
        while not ended():
            assert time.monotonic() < deadline and driver.poll() is None
            time.sleep(0.2)
        driver.kill()
    before = ended()
    assert 0 < len(before) < 5 and not (tmp_path / "out/distances.png").exists()
    again = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stdout + again.stderr
    after = ended()
    assert len(after) == 5 and before.items() <= after.items(), "trained a second time"
    assert f"distances: {5 - len(before)} trainings and" in again.stdout
    rows = json.loads((tmp_path / "out/distances.json").read_text())["rows"]
    assert all(row["images"] == 2000 and row["mean"] is not None for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_row_of_table_2_is_measured(classifier, tmp_path):
    line = command("table2", classifier, tmp_path, *("--steps", "20", "--epochs", "0.5", "--dann-steps", "20"))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [*line, "--width-f", "0.15", "--dimensions", "10"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=1400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "out/table2.json").read_text())["rows"]
    assert len(rows) == 6 and all(row["images"] == 898 and 0 <= row["mean"] <= 1 for row in rows)
    [adapted] = (tmp_path / "out/trainings").glob("adaptation-*")
    _, manifest = load_classifier(str(adapted))
    dtn = next((tmp_path / "out/trainings").glob("dtn-*")).name
    assert manifest["config"]["split"] == f"G(street-digits largest) of {dtn}"
    assert manifest["metrics"]["train_images"] == 12_000


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_table_1_of_the_embedded_digits_has_the_dtn_far_above_what_lacks_its_parts(tmp_path):
    line = [sys.executable, str(JOBS / "experiment.py"), "table1", "--embedded", "--seeds", "1", "--out", "out"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=2900)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["title"]: row["mean"] for row in json.loads((tmp_path / "out/table1.json").read_text())["rows"]}
    assert rows["DTN"] > 0.75
    for title in ("Baseline method (Sec. 3)", "DTN w/o L_CONST & L_TID", "Original image"):
        assert rows["DTN"] > rows[title] + 0.2, title
