"""Nothing is deleted or overwritten that the program did not write, in folders and in buckets."""

import io
import json
import tarfile
import uuid
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision
from files import encode, write_classifier
from objects import Objects
from PIL import Image
from pyarrow import fs
from seaweedfs import client

from dtn_ray import storage
from dtn_ray.bulk.ledger import Ledger
from dtn_ray.bulk.shards import SCHEMA, is_shard, pack, shard_name
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.data.digits import load
from dtn_ray.emoji.job import make_emoji
from dtn_ray.emoji.options import EmojiSet
from dtn_ray.errors import UserError
from dtn_ray.ingest.job import ingest
from dtn_ray.ingest.options import Ingestion
from dtn_ray.listing.left_out import LITTER
from dtn_ray.perceptual.job import pretrain
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.run import check_folder
from dtn_ray.storage import ownership
from dtn_ray.train.trained import load_trained

HEX = "0123456789abcdef0123456789abcdef"


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path) -> str:
    """A folder or bucket, as a URI."""
    if request.param == "folder":
        return str(tmp_path)
    request.getfixturevalue("store")
    environment = request.getfixturevalue("s3_server")
    name = f"test-{uuid.uuid4().hex[:12]}"
    client(environment).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def look(request):
    """All files below a URI with their contents, read past the code under test."""

    def look(uri: str) -> dict[str, bytes]:
        if uri.startswith("s3://"):
            return Objects(request.getfixturevalue("s3_server")).read(uri)
        return {str(path.relative_to(uri)): path.read_bytes() for path in Path(uri).rglob("*") if path.is_file()}

    return look


@pytest.fixture
def job(made, place) -> Conversion:
    """The conversion of three photos."""
    put(f"{place}/in", {f"{name}.png": photo(i) for i, name in enumerate("abc")})
    return Conversion(f"{made}/dtn", f"{place}/in", f"{place}/out", sheet=1)


def photo(shade: int) -> bytes:
    return encode(Image.new("RGB", (32, 32), (8 * shade, 90, 30)))


def put(folder: str, contents: dict[str, bytes]) -> None:
    for key, content in contents.items():
        storage.write_bytes(f"{folder}/{key}", content)


def parquet(**columns: list) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def model_of(job: Conversion) -> str:
    return load_trained(job.checkpoint).digest[:12]


# ── Conversion and ingestion ──────────────────────────────────────────────────────────────────────────────────────


def test_what_a_user_keeps_in_OUT_stays(job, look):
    users = {
        "work/thesis.txt": b"years",
        f"work/{HEX}/list.parquet": b"of an older version, or not",
        "notes.txt": b"n",
        "images/holiday.png": photo(1),
    }
    put(job.out, users)
    with pytest.raises(UserError, match="no images there"):
        convert(replace(job, suffixes=(".none",)))
    assert users.items() <= look(job.out).items()
    assert convert(job)["converted"] == 3
    own = {f"{model_of(job)}/images/mine.png": b"not an output's name", f"{model_of(job)}/people/table/mine.csv": b"m"}
    put(job.out, own)
    put(job.source, {"d.png": photo(4)})
    assert convert(job)["converted"] == 1
    assert (users | own).items() <= look(job.out).items()


def test_scratch_files_of_killed_runs_are_deleted_and_nothing_else_beside_them(job, look):
    convert(job)
    place = f"{job.out}/.dtn-ray"
    assert list(look(place)) == ["mark.json"]
    killed = [f"{HEX}/0-00000-0123456789abcdef.parquet", f"{HEX}/0001-00003-0123456789abcdef.parquet"]
    killed += [f"{HEX}/{HEX}-0123456789abcdef.parquet", f"{HEX}/{HEX}.partial"]
    users = [f"{HEX}/holiday.parquet", f"{HEX}/deep/{HEX}.partial", f"mine/{HEX}.partial", "notes.txt"]
    put(place, dict.fromkeys([*killed, *users], b"x"))
    convert(job)
    assert sorted(look(place)) == sorted([*users, "mark.json"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lease.json", b'{"rent": 900, "flat": "3b"}'),
        ("lease.json", b"not even JSON"),
        ("last-run.json", b'{"job": "a marathon"}'),
        ("last-run.json", b"[" * 100_000),
        ("ledger/2026.csv", b"income"),
        ("ledger", b"a file"),
        ("MODEL/diary.txt", b"dear diary"),
        ("MODEL", b"a file"),
        (".dtn-ray/mark.json", b"{}"),
        (".dtn-ray/a.txt", b"a folder of the same name"),
        (f".dtn-ray/{HEX}/{HEX}.partial", b"as ours are called, but without the mark"),
    ],
)
def test_an_OUT_whose_names_are_taken_is_refused(job, look, call, name, content):
    name = name.replace("MODEL", model_of(job))
    put(job.out, {name: content})
    code, _, said = call(f"convert {job.checkpoint} {job.source} {job.out}")
    lines = said.strip().splitlines()
    assert code == 2 and len(lines) == 1 and f"{job.out}/{name.split('/')[0]}" in lines[0], said
    written = {} if name == "last-run.json" else {"last-run.json"}
    assert {key: value for key, value in look(job.out).items() if key not in written} == {name: content}


def test_a_file_in_the_place_of_the_scratch_folder_is_refused(made, tmp_path, look):
    put(f"{tmp_path}/in", {"a.png": photo(1)})
    put(f"{tmp_path}/out", {".dtn-ray": b"a file"})
    with pytest.raises(UserError, match=r"out/\.dtn-ray: this exists"):
        convert(Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out"))
    assert look(f"{tmp_path}/out") == {".dtn-ray": b"a file"}


def test_an_OUT_of_an_older_version_has_no_mark_and_is_taken(job, look):
    convert(job)
    for gone in (["lease.json"], [], [key for key in look(job.out) if key.startswith("ledger/")]):
        for key in (".dtn-ray/mark.json", *gone):
            storage.delete(f"{job.out}/{key}")
        put(job.source, {"a.png": photo(len(gone) + 7)})
        assert convert(job)["failed"] == 0
    assert ".dtn-ray/mark.json" in look(job.out)


def test_a_marked_OUT_is_ours_whatever_became_of_its_records(job, look):
    convert(job)
    put(job.out, {"lease.json": b"{cut", "last-run.json": b"{cut"})
    assert convert(job)["done_before"] == 3
    assert b"holder" in look(job.out)["lease.json"]


def test_a_dry_run_writes_and_deletes_nothing(job, look):
    put(job.out, {"work/a": b"a"})
    convert(replace(job, dry_run=True))
    assert look(job.out) == {"work/a": b"a"}


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_only_shards_whose_content_shows_that_they_are_ours_are_swept(job, look, kind):
    job = replace(job, shards=kind)
    convert(job)
    folder, suffix = f"{job.out}/{model_of(job)}/shards", {"parquet": "parquet", "webdataset": "tar"}[kind]
    named = set(look(folder))
    rows = [{"image": photo(9), "key": f"{i // 2}.png", "version": None, "score": 0.5} for i in range(4)]
    orphan = shard_name([("0.png", None), ("1.png", None)], kind)
    content = pack(rows, SCHEMA, kind, "png")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.json"), io.BytesIO(b""))
    users = {
        f"507f1f77bcf86cd799439011.{suffix}": parquet(key=["a"], version=["b"]),  # called like a MongoDB object
        f"507f1f77bcf86cd799439012.{suffix}": content,
        f"507f1f77bcf86cd799439013.{suffix}": b"damaged",
        f"507f1f77bcf86cd799439014.{suffix}": buffer.getvalue(),
        f"deep/{orphan}": content,
        "mine.parquet": b"mine",
        "mine.txt": b"mine",
    }
    put(folder, users | {orphan: content})
    assert is_shard(f"{folder}/{orphan}") and all(is_shard(f"{folder}/{name}") for name in named)
    convert(job)
    found = look(folder)
    assert set(found) == named | set(users) and users.items() <= found.items()


def test_copies_and_tables_of_others_in_the_ledger_are_never_deleted(job, look):
    convert(job)
    ledger = f"{job.out}/ledger/{model_of(job)}"
    ((own, content),) = look(ledger).items()
    copies = {f"backup/{own}": content, "part-before the upgrade.parquet": content}
    put(ledger, copies)
    for shade in (20, 21):
        put(job.source, {"a.png": photo(shade)})
        assert convert(job)["converted"] == 1
    found = look(ledger)
    assert copies.items() <= found.items() and len(found) == 3 and own not in found
    assert len(Ledger(ledger).read()) == 3
    put(ledger, {"mine.parquet": parquet(income=[1])})
    with pytest.raises(UserError, match=r"mine\.parquet: this file cannot be read as a part.*move it elsewhere"):
        convert(job)
    assert "mine.parquet" in look(ledger)


def test_a_ledger_below_a_folder_called_like_its_sets_is_compacted(made, tmp_path, look):
    put(f"{tmp_path}/in", {"a.png": photo(1)})
    job = Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/set-1/out")
    for shade in (1, 2, 3):
        put(job.source, {"a.png": photo(shade)})
        convert(job)
    assert len(look(f"{job.out}/ledger")) == 1


def test_only_parts_of_the_table_of_people_are_replaced(made, tmp_path, look, ray_cluster):
    put(f"{tmp_path}/in", {"ann/0.png": photo(1), "ben/0.png": photo(2)})
    job = Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out", person=r"^(\w+)/")
    folder = f"{convert(job)['people_folder']}/table"
    before = set(look(folder))
    users = {"mine.parquet": parquet(income=[1]), f"{HEX}.parquet": parquet(person=["a"], income=[1])}
    users |= {f"deep/{HEX}.parquet": b"x", f"{HEX[::-1]}.parquet": b"damaged"}
    put(folder, users)
    assert convert(job)["people"] == 2
    found = look(folder)
    assert users.items() <= found.items() and not before & set(found)
    parts = [pq.read_table(io.BytesIO(content)) for name, content in found.items() if name not in users]
    assert sorted(pa.concat_tables(parts)["person"].to_pylist()) == ["ann", "ben"]


def test_an_ingestion_refuses_a_folder_of_faces_that_others_made(place, look, yunet):
    put(f"{place}/in", {"a.png": photo(1)})
    job = Ingestion(f"{place}/in", f"{place}/out", detector=str(yunet))
    put(f"{place}/out", {"faces/summary.json": b"{}"})
    with pytest.raises(UserError, match="faces: holds files"):
        ingest(job)
    put(f"{place}/out", {".dtn-ray/mark.json": json.dumps(ownership.MARKED).encode()})
    with pytest.raises(UserError, match="faces: holds files"):
        ingest(job)
    assert look(f"{place}/out")["faces/summary.json"] == b"{}"


def test_scratch_files_are_no_photos(job):
    put(job.source, {".dtn-ray/x/a.png": photo(1), "deep/.dtn-ray/b.png": photo(1)})
    summary = convert(job)
    assert (summary["images"], summary["left_out"][LITTER]["count"]) == (3, 2)


def test_a_whole_bucket_is_never_deleted_as_a_folder(place):
    if not place.startswith("s3://"):
        pytest.skip("of buckets")
    put(place, {"a": b"a"})
    files, path = storage.resolve(place)
    for bucket in (path, f"{path}/"):
        with pytest.raises(OSError, match="a whole bucket is not deleted"):
            files.delete_dir(bucket)
    assert storage.list_keys(place) == ["a"]


# ── Others ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["part-00000.parquet", "sheet.png", "emoji.json"])
def test_a_set_of_emoji_is_not_drawn_over_files_of_others(place, look, name):
    put(place, {name: b"[1]", "beside.txt": b"b"})
    with pytest.raises(UserError, match=f"{name}: this exists"):
        make_emoji(EmojiSet(place, count=2))
    assert look(place) == {name: b"[1]", "beside.txt": b"b"}


@pytest.mark.parametrize("name", ["scores.json", "scores.png"])
def test_scores_are_not_written_over_files_of_others(made, place, look, call, name):
    put(f"{place}/scores", {name: b'{"goals": 3}'})
    code, _, said = call(f"evaluate {made}/street --out {place}/scores")
    assert code == 2 and f"{name}: this exists" in said
    assert look(f"{place}/scores") == {name: b'{"goals": 3}'}


def test_scores_are_written_over_earlier_scores(made, place, look, call):
    put(f"{place}/scores", {"scores.json": b'{"checkpoint": 1, "weights": 2}', "scores.png": b"earlier"})
    code, _, said = call(f"evaluate {made}/dtn --source-file {made}/unseen.mat --out {place}/scores")
    assert code == 0, said
    assert b"accuracy" in look(f"{place}/scores")["scores.json"] and look(f"{place}/scores")["scores.png"] != b"earlier"


@pytest.mark.parametrize("name", ["retrieval.json", "retrieval.png"])
def test_retrieval_is_not_written_over_files_of_others(place, look, call, name):
    put(f"{place}/r", {name: b"mine"})
    code, _, said = call(f"evaluate retrieval C --probes P --distractors D --judge J.onnx --out {place}/r")
    assert code == 2 and f"{name}: this exists" in said
    assert look(f"{place}/r") == {name: b"mine"}


def test_a_training_refuses_a_folder_with_files_that_no_run_wrote(place, look, call):
    put(f"{place}/run", {"result.json": b"mine", "checkpoint_1/mine": b"m", "f/mine": b"m"})
    before = look(place)
    with pytest.raises(UserError, match=r"run: holds files, such as .*no experiment\.json"):
        check_folder(f"{place}/run")
    code, _, said = call(f"train embedded --storage {place} --name run")
    assert code == 2 and "run: holds files" in said.splitlines()[-1]
    assert look(place) == before
    check_folder(f"{place}/absent")


def test_a_training_in_a_folder_of_others_begins_nothing(place, look, ray_cluster):
    put(f"{place}/f", {"checkpoint_manager_snapshot.json": b"mine"})
    with pytest.raises(UserError, match="f: holds files"):
        pretrain(Pretraining(dataset="handwritten-digits", split="train"), Run(storage=place, name="f"))
    assert look(place) == {"f/checkpoint_manager_snapshot.json": b"mine"}


@pytest.mark.parametrize("name", ["../photos", "/photos", "photos", "", "checkpoint_/../../photos", 7, None])
def test_checkpoints_of_other_places_are_not_rotated_away(place, name):
    snapshot = {"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_2026-01-31_18-00-00.123456"}]}
    put(f"{place}/run", {"experiment.json": b"{}", "checkpoint_manager_snapshot.json": json.dumps(snapshot).encode()})
    check_folder(f"{place}/run")
    snapshot["latest_checkpoint_result"] = {"checkpoint_dir_name": name}
    put(f"{place}/run", {"checkpoint_manager_snapshot.json": json.dumps(snapshot).encode()})
    with pytest.raises(UserError, match="is not a checkpoint of this run"):
        check_folder(f"{place}/run")


def test_a_download_keeps_what_is_there(tmp_path, monkeypatch):
    def download(root, download):
        raw = Path(root, "MNIST/raw")
        raw.mkdir(parents=True)
        for name in ("t10k-labels-idx1-ubyte.gz", "new.gz"):
            raw.joinpath(name).write_bytes(b"fetched")

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    put(f"{tmp_path}/data/mnist/MNIST/raw", {"t10k-labels-idx1-ubyte.gz": b"mine"})
    with pytest.raises(UserError, match="no such file"):
        load.load("mnist", "test", f"{tmp_path}/data", download=True)
    raw = tmp_path / "data/mnist/MNIST/raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == {
        "t10k-labels-idx1-ubyte.gz": b"mine",
        "new.gz": b"fetched",
    }
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mnist"]


def test_a_copy_of_a_folder_is_the_same(place, tmp_path):
    write_classifier(tmp_path / "f")
    storage.copy_folder(str(tmp_path / "f"), f"{place}/there/f")
    storage.copy_folder(f"{place}/there/f", f"{tmp_path}/back/f")
    files = fs.LocalFileSystem().get_file_info(fs.FileSelector(f"{tmp_path}/f"))
    assert len(files) == 2
    for each in files:
        assert Path(f"{tmp_path}/back/f", each.base_name).read_bytes() == Path(each.path).read_bytes()
