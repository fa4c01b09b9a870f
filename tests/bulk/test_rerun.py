"""Conversion run again and again over the same source: what is new is done, what is done is left, nothing is lost."""

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from files import encode, write_dtn
from PIL import Image
from safetensors.torch import load_file, save_file

from dtn_ray import storage
from dtn_ray.bulk.ledger import Ledger
from dtn_ray.checkpoints import checkpoint
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.convert.pipeline import Converter
from dtn_ray.errors import UserError
from dtn_ray.storage import s3
from dtn_ray.train.trained import load_trained

ROOT = Path(__file__).parents[2]


def photo(shade: int) -> bytes:
    return encode(Image.new("RGB", (32, 32), (shade, 90, 200 - shade)))


def put(folder: str, **images: bytes) -> None:
    for name, content in images.items():
        storage.write_bytes(f"{folder}/{name}.png", content)


def counts(summary: dict) -> tuple[int, ...]:
    return tuple(summary[name] for name in ("images", "done_before", "converted", "failed", "remaining"))


def ledger_rows(out: str) -> dict[str, dict]:
    (folder,) = {key.split("/")[0] for key in storage.list_keys(f"{out}/ledger")}
    rows = Ledger(f"{out}/ledger/{folder}").read().to_pylist()
    by_key = {row["key"]: row for row in rows}
    assert len(by_key) == len(rows)
    return by_key


@pytest.fixture
def no_ray(monkeypatch):
    """What has nothing to do starts no Ray and no actor."""

    def started(*_, **__):
        raise AssertionError("Ray was used")

    return lambda patch: patch.setattr("dtn_ray.bulk.run.connect", started)


def test_a_second_run_over_a_bucket_does_what_is_new_changed_or_worth_another_try(made, bucket, monkeypatch, no_ray):
    source, out = f"{bucket}/in", f"{bucket}/out"
    put(source, a=photo(1), b=photo(2), c=photo(3), broken=b"not an image")
    job = Conversion(f"{made}/dtn", source, out, sheet=2)
    assert counts(convert(job)) == (4, 0, 3, 1, 0)
    first = ledger_rows(out)
    assert {row["attempts"] for row in first.values()} == {1}
    assert len(storage.list_keys(f"{out}/ledger")) == 1

    with monkeypatch.context() as patch:
        no_ray(patch)
        again = convert(job)
    assert counts(again) == (4, 3, 0, 1, 0) and storage.exists(again["sheet"])
    assert ledger_rows(out) == first

    put(source, b=photo(50), d=photo(4))
    lost = {**first["c.png"], "status": "failed", "cause": "store", "reason": "503", "attempts": 2}
    Ledger(f"{out}/ledger/{again['model']}").append(pa.Table.from_pylist([lost]).drop_columns("time"))
    assert counts(convert(job)) == (5, 1, 3, 1, 0)
    rows = ledger_rows(out)
    assert {key: row["attempts"] for key, row in rows.items()} == {
        "a.png": 1,
        "b.png": 2,
        "c.png": 3,
        "d.png": 1,
        "broken.png": 1,
    }
    assert rows["a.png"] == first["a.png"] and rows["b.png"]["version"] != first["b.png"]["version"]


def test_a_ledger_of_several_sets_is_compacted_by_tasks(made, tmp_path, ray_cluster, monkeypatch):
    monkeypatch.setattr("dtn_ray.bulk.ledger.ROWS_PER_SET", 4)
    monkeypatch.setattr("dtn_ray.bulk.run.ROWS_PER_PART", 1)  # or all rows are one group, which is not cut
    monkeypatch.setattr("dtn_ray.bulk.run.LEAST_PER_BLOCK", 8)
    source, out = str(tmp_path / "in"), str(tmp_path / "out")
    put(source, **{f"{i:03}": photo(i) for i in range(60)})
    assert counts(convert(Conversion(f"{made}/dtn", source, out, sheet=0))) == (60, 0, 60, 0, 0)
    sets = storage.list_keys(f"{out}/ledger")
    assert len(sets) > 1 and all("/set-" in f"/{key}" for key in sets)
    assert len(ledger_rows(out)) == 60


@pytest.mark.parametrize(("count", "options"), [(65, {}), (64, {"actors": 1}), (64, {"max_actors": 2})])
def test_few_images_need_no_Ray_unless_actors_are_asked_for(made, tmp_path, monkeypatch, count, options):
    def started():
        raise UserError("Ray was used")

    monkeypatch.setattr("dtn_ray.bulk.run.has_cluster", lambda: False)
    monkeypatch.setattr("dtn_ray.bulk.run.connect", started)
    put(f"{tmp_path}/in", **{f"{i:03}": photo(i) for i in range(count)})
    job = Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out", sheet=0)
    with pytest.raises(UserError, match="Ray was used"):
        convert(replace(job, **options))
    assert counts(convert(replace(job, limit=64))) == (count, 0, 64, 0, count - 64)
    assert len(ledger_rows(job.out)) == 64


@pytest.mark.slow
def test_a_limit_is_worked_through_run_by_run_and_damaged_images_only_when_asked(
    made, tmp_path, ray_cluster, monkeypatch, no_ray
):
    source, out = str(tmp_path / "in"), str(tmp_path / "out")
    put(source, a=photo(1), b=b"not an image", c=photo(3))
    job = dict(checkpoint=f"{made}/dtn", source=source, out=out, sheet=0)
    assert counts(convert(Conversion(**job, limit=2))) == (3, 0, 1, 1, 1)
    assert counts(convert(Conversion(**job, limit=2))) == (3, 1, 1, 1, 0)
    assert counts(convert(Conversion(**job, retry_failed=True))) == (3, 2, 0, 1, 0)
    assert {key: row["attempts"] for key, row in ledger_rows(out).items()} == {"a.png": 1, "b.png": 2, "c.png": 1}
    with monkeypatch.context() as patch:
        no_ray(patch)
        assert counts(convert(Conversion(**job))) == (3, 2, 0, 1, 0)


@pytest.mark.parametrize(("took", "told"), [(0, "0.0 s."), (0.02, "0.0 s, ")])
def test_a_run_of_next_to_no_time_has_its_report(made, tmp_path, monkeypatch, ray_cluster, took, told):
    put(str(tmp_path / "in"), a=photo(1))
    ticks = iter([1000.0, 1000.0 + took])
    clock = SimpleNamespace(time=lambda: next(ticks), monotonic=time.monotonic, perf_counter=time.perf_counter)
    monkeypatch.setattr("dtn_ray.bulk.run.time", clock)
    summary = convert(Conversion(f"{made}/dtn", str(tmp_path / "in"), str(tmp_path / "out")))
    assert counts(summary) == (1, 0, 1, 0, 0) and summary["seconds"] == pytest.approx(took)
    page = storage.read_bytes(summary["report"]).decode()
    assert told in page and ("50.0 images/s" in page) == bool(took)


def test_another_model_converts_all_again_beside_the_first(made, tmp_path, ray_cluster):
    source, out = str(tmp_path / "in"), str(tmp_path / "out")
    put(source, a=photo(1))
    one = convert(Conversion(f"{made}/dtn", source, out))
    other = tmp_path / "other"
    write_dtn(other)
    manifest = (other / "checkpoint.json").read_text()
    before = load_trained(str(other)).manifest["networks"]["g_convert"]
    weights = load_file(other / "g_convert.safetensors")
    weights |= {name: value + 0.01 for name, value in weights.items() if value.is_floating_point()}
    save_file(weights, other / "g_convert.safetensors")
    after = checkpoint.digest(SimpleNamespace(state_dict=lambda: weights))
    (other / "checkpoint.json").write_text(manifest.replace(before, after))
    two = convert(Conversion(str(other), source, out))
    assert counts(one) == counts(two) == (1, 0, 1, 0, 0)
    assert one["folder"] != two["folder"]
    for summary in (one, two):
        assert Path(summary["folder"], "images/a.png.png").exists()
        assert len(Ledger(f"{out}/ledger/{summary['model']}").read()) == 1


def test_keys_of_every_kind_are_converted_in_a_bucket(made, bucket):
    source, out = f"{bucket}/in", f"{bucket}/out"
    keys = ["a b.png", "a%2Fb.png", "été/фото.png", "q?x=1&y=#z+.png", "long" * 50 + ".png"]
    client, name = s3.client(), bucket.removeprefix("s3://")
    for key in keys:
        client.put_object(Bucket=name, Key=f"in/{key}", Body=photo(7))
    table = pa.concat_tables(storage.list_pages(source))
    rows = Converter(Conversion(f"{made}/dtn", source, out))(table).to_pylist()
    assert {row["key"]: row["status"] for row in rows} == dict.fromkeys(keys, "converted"), rows
    for row in rows:
        assert np.asarray(Image.open(io.BytesIO(storage.read_bytes(f"{out}/{row['output']}")))).shape[:2] == (32, 32)


@pytest.mark.slow
def test_a_run_whose_driver_was_killed_goes_on_with_what_is_missing(made, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(600):
        put(str(source), **{f"{i:03}": photo(i % 200)})
    command = [sys.executable, str(ROOT / "jobs/convert.py"), f"{made}/dtn", str(source), str(out), "--batch-size", "4"]
    command += ["--lease-seconds", "4"]
    # Each command starts a Ray of its own: none may join the Ray of this session.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 200
        while len(list(out.glob("ledger/*/*.parquet"))) < 1:
            assert time.monotonic() < deadline and driver.poll() is None
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    time.sleep(4)  # its lease
    done = ledger_rows(str(out))
    assert 0 < len(done) < 600
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert again.returncode == 0, again.stderr
    rows = ledger_rows(str(out))
    assert sorted(rows) == [f"{i:03}.png" for i in range(600)]
    assert {row["status"] for row in rows.values()} == {"converted"}
    assert {key: rows[key] for key in done} == done, "what was done is not done again"
    assert {row["attempts"] for row in rows.values()} == {1}
    assert len(list(out.glob("*/images/*.png"))) == 600
