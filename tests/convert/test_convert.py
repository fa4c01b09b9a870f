"""Conversion of folders and buckets with Ray Data: every image is accounted for, and a bad one stops nothing."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image

from dtn_ray import storage
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.data.digits import load
from dtn_ray.errors import UserError
from dtn_ray.method.pixels import to_float, to_uint8
from dtn_ray.train.trained import load_trained


def encoded(pixels: np.ndarray, format: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos() -> dict[str, bytes]:
    """Forty images by key, of which some cannot be read."""
    digits = load.load("handwritten-digits", "test").images[:37, 0]
    images = {f"{'deep/er/' if i % 2 else ''}{i:02}.png": encoded(pixels) for i, pixels in enumerate(digits)}
    return images | {"broken.jpg": encoded(digits[0], "jpeg")[:200], "empty.png": b"", "text.gif": b"not an image"}


BAD = {"broken.jpg": "the file is cut short", "empty.png": "empty file", "text.gif": "not an image of a known format"}


def put(folder: str, images: dict[str, bytes]) -> None:
    for key, content in images.items():
        storage.write_bytes(storage.join(folder, key), content)


@pytest.fixture(scope="module")
def converted(made, ray_cluster, photos, tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("conversion")
    put(str(folder / "in"), photos)
    job = Conversion(f"{made}/dtn", str(folder / "in"), str(folder / "out"), batch_size=16, sheet=6, actors=1)
    summary = convert(job)
    return summary, Path(summary["folder"])


def test_every_image_has_one_outcome(converted, photos):
    summary, out = converted
    rows = pq.read_table(out.parent / "ledger").to_pylist()
    assert sorted(row["key"] for row in rows) == sorted(photos)
    assert {row["key"]: row["status"] for row in rows} == {
        key: "failed" if key in BAD else "converted" for key in photos
    }
    assert (summary["images"], summary["converted"], summary["failed"]) == (40, 37, 3)
    assert json.loads((out / "summary.json").read_text()) == summary


def test_bad_images_are_reported_with_their_reasons(converted):
    summary, _ = converted
    assert {key: BAD[key] in reason for key, reason in summary["failures"].items()} == dict.fromkeys(BAD, True)


def test_outputs_keep_their_keys_and_are_what_G_makes(converted, made, photos):
    _, out = converted
    written = {str(path.relative_to(out / "images")) for path in (out / "images").rglob("*.png")}
    assert written == {f"{key}.png" for key in photos if key not in BAD}
    G = load_trained(f"{made}/dtn").dtn.G
    key = "deep/er/01.png"
    pixels = np.asarray(Image.open(io.BytesIO(photos[key])).convert("RGB")).transpose(2, 0, 1)
    with torch.no_grad():
        expected = to_uint8(G(to_float(pixels[None])))[0, 0].numpy()
    found = np.asarray(Image.open(out / "images" / f"{key}.png"))
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_the_contact_sheet_shows_pairs(converted):
    summary, _ = converted
    with Image.open(summary["sheet"]) as sheet:
        assert sheet.width > 6 * 128 and sheet.height < 128


def test_a_bucket_is_converted_into_a_bucket(made, photos, bucket):
    put(f"{bucket}/in", photos)
    summary = convert(Conversion(f"{made}/dtn", f"{bucket}/in", f"{bucket}/out", sheet=0))
    assert summary["converted"] == 37
    assert storage.exists(f"{summary['folder']}/images/deep/er/01.png.png")


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("absent", "out", "no such folder"),
        ("empty", "out", "no images there"),
        ("full", "full/out", "lies inside the source"),
    ],
)
def test_folders_that_cannot_work_are_refused(made, tmp_path, source, out, message):
    (tmp_path / "empty").mkdir()
    put(str(tmp_path / "full"), {"a.png": encoded(np.zeros((32, 32), np.uint8))})
    with pytest.raises(UserError, match=message):
        convert(Conversion(f"{made}/dtn", str(tmp_path / source), str(tmp_path / out)))


def test_a_classifier_is_not_a_transfer_network(made, tmp_path):
    put(str(tmp_path), {"a.png": encoded(np.zeros((32, 32), np.uint8))})
    with pytest.raises(UserError, match="kind 'classifier'"):
        convert(Conversion(f"{made}/classifier", str(tmp_path), str(tmp_path.parent / "out")))


def test_one_image_per_person_is_that_of_the_lowest_score(made, tmp_path, ray_cluster):
    images = load.load("handwritten-digits", "test").images[:9, 0]
    keys = [f"{person}/{i}.png" for i, person in enumerate(["ann", "ann", "ann", "ben", "ben", "cleo", "ann", "ben"])]
    put(f"{tmp_path}/in", {key: encoded(pixels) for key, pixels in zip([*keys, "8.png"], images, strict=True)})
    job = Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out", person=r"^(\w+)/")
    summary = convert(job)
    assert (summary["converted"], summary["people"]) == (9, 3)
    rows = pq.read_table(tmp_path / "out/ledger").to_pylist()
    folder = Path(summary["people_folder"])
    chosen = {row["person"]: row for row in pq.read_table(folder / "table").to_pylist()}
    assert {person: row["photos"] for person, row in chosen.items()} == {"ann": 4, "ben": 3, "cleo": 1}
    for person, row in chosen.items():
        expected = min((each for each in rows if each["key"].startswith(f"{person}/")), key=lambda each: each["score"])
        assert (row["key"], row["output"]) == (expected["key"], expected["output"])
        assert (folder / f"images/{person}.png").read_bytes() == (tmp_path / "out" / expected["output"]).read_bytes()
    assert convert(job)["people"] == 3 and len(pq.read_table(folder / "table")) == 3
    # By a table: others, and one who has no photo here.
    csv = tmp_path / "people.csv"
    csv.write_text("person,key,note\n7,ann/0.png,x\n7,8.png,y\n8,ben/3.png,z\n9,gone.png,z\n")
    assert convert(replace(job, person="", people=str(csv)))["people"] == 2
    chosen = {row["person"]: row for row in pq.read_table(folder / "table").to_pylist()}
    assert {person: row["photos"] for person, row in chosen.items()} == {"7": 2, "8": 1}
    assert chosen["8"]["key"] == "ben/3.png"
    (tmp_path / "text.parquet").write_text("text")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "keys.parquet")
    for options, message in (
        ({"people": str(csv)}, "both name the person"),
        ({"person": "", "people": f"{tmp_path}/gone.csv"}, r"--people .*gone\.csv: neither"),
        ({"person": "", "people": f"{tmp_path}/text.parquet"}, r"--people .*text\.parquet: neither"),
        ({"person": "", "people": f"{tmp_path}/keys.parquet"}, "no column person, only key"),
        ({"person": "("}, "--person .: not a reg"),
        ({"shards": "parquet"}, "use only one of them"),
    ):
        with pytest.raises(UserError, match=message):
            convert(replace(job, **options))


@pytest.mark.slow
def test_a_pool_of_actors_grows_to_max_actors_for_short_work_too(made, tmp_path, ray_cluster):
    def actors() -> int:
        return sum("MapWorker" in actor["ActorClassName"] for actor in ray._private.state.actors().values())

    put(f"{tmp_path}/in", {f"{i:03}.png": encoded(np.full((32, 32, 3), i % 256, np.uint8)) for i in range(520)})
    job = Conversion(
        f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out", shards="parquet", sheet=1, actors=1, max_actors=2
    )
    before, summary = actors(), convert(job)
    assert summary["converted"] == 520
    assert actors() - before == 2
