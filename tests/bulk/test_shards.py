"""Conversion into shards for training: Parquet and WebDataset, nothing lost, nothing left over."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from files import encode
from PIL import Image

from dtn_ray import storage
from dtn_ray.bulk.tally import EXTREMES
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.storage import ownership
from dtn_ray.train.trained import load_trained


@pytest.fixture
def job(made, tmp_path, ray_cluster) -> Conversion:
    for i in range(30):
        storage.write_bytes(f"{tmp_path}/in/a.b/{i:02}.png", encode(Image.new("RGB", (32, 32), (8 * i, 90, 30))))
    storage.write_bytes(f"{tmp_path}/in/a.b/bad.png", b"no image")
    return Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out", batch_size=8, sheet=4)


def contents(shard: Path) -> dict[str, bytes]:
    """Images by key, as a reader of such shards gets them."""
    if shard.suffix == ".parquet":
        return {row["key"]: row["image"] for row in pq.read_table(shard).to_pylist()}
    with tarfile.open(shard) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(members) == [f"{i:06}.{ending}" for i in range(len(members) // 2) for ending in ("png", "json")]
    return {json.loads(members[name])["key"]: members[name[:-4] + "png"] for name in members if name.endswith("json")}


def replaced(job: Conversion, **changes) -> Conversion:
    return Conversion(**vars(job) | changes)


@pytest.mark.parametrize(("kind", "suffix"), [("parquet", "parquet"), ("webdataset", "tar")])
def test_shards_hold_what_single_files_would(job, tmp_path, kind, suffix):
    summary = convert(replaced(job, shards=kind))
    assert (summary["converted"], summary["failed"]) == (30, 1)
    (shard,) = Path(summary["folder"], "shards").iterdir()
    assert shard.suffix == f".{suffix}"
    single = convert(replaced(job, out=f"{tmp_path}/single"))
    images = Path(single["folder"], "images")
    assert contents(shard) == {f"a.b/{i:02}.png": (images / f"a.b/{i:02}.png.png").read_bytes() for i in range(30)}
    # The ledger tells where each is, and the sheet has found them there.
    rows = pq.read_table(tmp_path / "out" / "ledger").to_pylist()
    outputs = {row["output"] for row in rows if row["status"] == "converted"}
    assert outputs == {f"{summary['model']}/shards/{shard.name}#{i}" for i in range(30)}
    assert Path(summary["sheet"]).read_bytes() == Path(single["sheet"]).read_bytes()


def test_few_images_make_a_shard_for_each_actor_and_the_sheet_finds_them_in_any_row_group(job, tmp_path):
    for i in range(570):
        storage.write_bytes(f"{tmp_path}/in/{i:03}.png", encode(Image.new("RGB", (32, 32), (i % 256, i // 3, 30))))
    summary = convert(replaced(job, shards="parquet", actors=2, batch_size=64, sheet=64))
    shards = [pq.read_metadata(shard) for shard in Path(summary["folder"], "shards").iterdir()]
    assert sorted(shard.num_rows for shard in shards) in ([299, 301], [300, 300])
    assert all(shard.num_row_groups > 1 for shard in shards)
    extremes, sample = Path(summary["report"]).read_text().split("<h2>A random sample</h2>")
    assert sample.count("<figure>") == 64 and extremes.count("<figure>") == 2 * EXTREMES


def test_shards_of_a_killed_run_are_swept_and_changed_images_get_new_ones(job, made, tmp_path):
    job = replaced(job, shards="parquet")
    killed = Path(convert(job)["folder"])
    shutil.rmtree(tmp_path / "out/ledger")  # before its rows were written
    storage.write_bytes(f"{job.source}/a.b/06.png", encode(Image.new("RGB", (40, 32), "red")))
    (orphan,) = (killed / "shards").iterdir()
    folder = Path(convert(job)["folder"], "shards")
    (first,) = folder.iterdir()
    assert first.name != orphan.name
    storage.write_bytes(f"{job.source}/a.b/07.png", encode(Image.new("RGB", (40, 32), "blue")))
    assert convert(job)["converted"] == 1
    (second,) = set(folder.iterdir()) - {first}
    assert set(contents(second)) == {"a.b/07.png"}
    assert contents(second)["a.b/07.png"] != contents(first)["a.b/07.png"]
    assert convert(job)["converted"] == 0 and len(list(folder.iterdir())) == 2


@pytest.mark.slow
def test_the_same_images_make_the_same_shard_again(job, tmp_path):
    made = []
    for name in ("one", "two"):
        (shard,) = Path(
            convert(replaced(job, shards="webdataset", out=f"{tmp_path}/{name}"))["folder"], "shards"
        ).iterdir()
        made.append((shard.name, shard.read_bytes()))
    assert made[0] == made[1]


@pytest.mark.slow
def test_shards_that_cannot_be_written_fail_their_images_until_the_next_run(job, made, tmp_path):
    job = replaced(job, shards="parquet")
    shards = tmp_path / "out" / load_trained(f"{made}/dtn").digest[:12] / "shards"
    ownership.mark(job.out)
    shards.parent.mkdir(parents=True)
    shards.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"shards: cannot be listed: .*Not a directory"):
        convert(job)
    rows = pq.read_table(tmp_path / "out" / "ledger").to_pylist()
    assert [row["cause"] for row in rows] == ["store"] * 30 + ["image"]
    shards.unlink()
    summary = convert(job)
    assert (summary["converted"], summary["failed"]) == (30, 1)
    with Image.open(io.BytesIO(contents(next(shards.iterdir()))["a.b/00.png"])) as image:
        assert image.size == (32, 32)
