"""The outputs that a ledger names are read below OUT alone, whoever wrote the ledger."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import encode
from PIL import Image

from dtn_ray.bulk.ledger import SCHEMA, Ledger
from dtn_ray.bulk.report import pairs
from dtn_ray.convert.options import Conversion
from dtn_ray.convert.people import choose
from dtn_ray.errors import UserError

PHOTO = encode(Image.new("RGB", (32, 32), "teal"))


@pytest.fixture
def place(tmp_path) -> Path:
    """in/a.png; in out/ an image and a shard with one; out2/ beside it with the same, which must not be read."""
    for name in ("in/a.png", "out/m/images/a.png.png", "out2/secret.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PHOTO)
    for name in ("out/m/shards/s.parquet", "out2/s.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": [PHOTO]}), tmp_path / name)
    return tmp_path


def names_outside(place: Path, file: str) -> list[str]:
    """Ways to name a file of out2/."""
    other = f"{place}/out2/{file}"
    return [f"../out2/{file}", f"m/../../out2/{file}", f"m//..//../out2/{file}", other, f"file://{other}", f"/{other}"]


def shown(place: Path, output: object, shards: str = "none") -> int:
    job = Conversion("c", f"{place}/in", f"{place}/out")
    row = {"key": "a.png", "output": output, "score": 0.5}
    return len(pairs(job, [row], lambda content, _: Image.new("RGB", (32, 32)), shards, "png"))


def test_a_report_shows_no_image_outside_of_out(place):
    assert shown(place, "m/images/a.png.png") == 1
    assert [shown(place, name) for name in names_outside(place, "secret.png")] == [0] * 6
    assert [shown(place, name) for name in (None, "", "..", ".", "m/images", "a\0b", "x" * 5000)] == [0] * 7


def test_a_report_shows_no_image_of_a_shard_outside_of_out(place):
    assert shown(place, "m/shards/s.parquet#0", "parquet") == 1
    assert [shown(place, f"{name}#0", "parquet") for name in names_outside(place, "s.parquet")] == [0] * 6
    odd = ("m/shards/s.parquet#1", "m/shards/s.parquet#x", "m/shards/s.parquet#-1", "#0")
    assert [shown(place, name, "parquet") for name in odd] == [0] * 4


def test_a_report_reads_no_object_outside_of_in(place):
    job = Conversion("c", f"{place}/in", f"{place}/out")
    row = {"key": "../out2/secret.png", "output": "m/images/a.png.png", "score": 0.5}
    assert not pairs(job, [row], lambda content, _: Image.new("RGB", (32, 32)), "none", "png")


def people(place: Path, output: str | None) -> dict:
    row = dict.fromkeys(SCHEMA.names) | {"key": "a.png", "version": "1", "size": 1, "status": "converted"}
    row |= {"output": output, "score": 0.5, "model": "m", "attempts": 1}
    ledger = Ledger(f"{place}/out/ledger/m")
    ledger.append(pa.Table.from_pylist([row], SCHEMA).drop_columns("time"))
    return choose(Conversion("c", f"{place}/in", f"{place}/out", person=r"(\w+)\."), ledger, "m")


def test_the_image_of_a_person_is_one_of_out(ray_cluster, place):
    assert people(place, "m/images/a.png.png")["people"] == 1
    assert (place / "out/m/people/images/a.png").read_bytes() == PHOTO


@pytest.mark.parametrize("way", [*range(6), None])
def test_no_image_of_a_person_comes_from_outside_of_out(ray_cluster, place, way):
    output = None if way is None else names_outside(place, "secret.png")[way]
    with pytest.raises(UserError, match=r"leads out of it|the ledger names this image") as refused:
        people(place, output)
    assert "\n" not in str(refused.value)
    assert not [*place.glob("out/m/people/images/*")]
