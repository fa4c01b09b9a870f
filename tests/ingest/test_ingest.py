"""Ingestion: photos of every kind in, aligned faces in Parquet out, each photo with its outcome."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from files import encode, huge_png
from objects import Objects
from PIL import Image

from dtn_ray import storage
from dtn_ray.data.rows import find_groups
from dtn_ray.errors import UserError
from dtn_ray.faces.align import TEMPLATE
from dtn_ray.ingest.job import ingest
from dtn_ray.ingest.options import Ingestion


@pytest.fixture(scope="module")
def photos(portrait) -> dict[str, bytes]:
    small = portrait.resize((256, 300))
    group = Image.new("RGB", (900, 400), "white")
    for left in (0, 300, 600):
        group.paste(small, (left, 50))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = np.asarray(small.convert("L")).astype(np.uint16)
    return {
        "ann/portrait.jpg": encode(portrait, "jpeg"),
        "ann/turned.jpg": encode(small.transpose(Image.Transpose.ROTATE_90), "jpeg", exif=exif.tobytes()),
        "ben/cmyk.jpg": encode(small.convert("CMYK"), "jpeg"),
        "ben/grey.png": encode(small.convert("L")),
        "ben/sixteen.png": encode(Image.fromarray(grey * 257)),
        "group.png": encode(group),
        "nobody.png": encode(Image.effect_noise((300, 300), 60)),
        "cut.jpg": encode(portrait, "jpeg")[:2000],
        "zero.jpg": b"",
        "letter.jpg": b"not a photo",
        "huge.png": huge_png(),
    }


BAD = {
    "cut.jpg": "the file is cut short",
    "zero.jpg": "empty file",
    "letter.jpg": "not an image",
    "huge.png": "more than the",
}


def faces(out: str) -> list[dict]:
    keys = [key for key in storage.list_keys(f"{out}/faces/shards") if key.endswith(".parquet")]
    tables = [pq.read_table(io.BytesIO(storage.read_bytes(f"{out}/faces/shards/{key}"))) for key in keys]
    return sorted((row for table in tables for row in table.to_pylist()), key=lambda row: (row["key"], row["face"]))


def test_every_photo_has_its_outcome_and_every_face_its_place(yunet, photos, bucket, s3_server, ray_cluster) -> None:
    objects = Objects(s3_server)
    objects.put(f"{bucket}/in", photos)
    job = Ingestion(f"{bucket}/in", f"{bucket}/out", detector=str(yunet), identity=r"^(\w+)/")
    summary = ingest(replace(job, actors=1))
    assert (summary["images"], summary["converted"], summary["no_face"]) == (11, 6, 1)
    assert (summary["faces"], summary["failed"], summary["remaining"]) == (8, 4, 0)
    rows = objects.newest(job.out)
    assert {key: row["status"] for key, row in rows.items()} == {
        key: "failed" if key in BAD else "no face" if key == "nobody.png" else "converted" for key in photos
    }
    assert all(reason in rows[key]["reason"] for key, reason in BAD.items())

    found = faces(job.out)
    assert [row["key"] for row in found].count("group.png") == 3 and len(found) == 8
    assert [row["identity"] for row in found] == ["ann"] * 2 + ["ben"] * 3 + [None] * 3
    portrait = Image.open(io.BytesIO(found[0]["image"]))
    assert portrait.size == (152, 152) and portrait.format == "JPEG"
    # Wherever the face was, its eyes are the dark spots of the same two places.
    pixels = np.asarray(portrait.convert("L"), float)
    for x, y in (TEMPLATE[:2] * 152).astype(int):
        assert pixels[y - 3 : y + 4, x - 3 : x + 4].mean() < pixels[y + 15 : y + 22, x - 3 : x + 4].mean() - 20
    # The ledger names the row of the shard, and tells the same of it.
    for key, row in rows.items():
        for number, face in enumerate(row["faces"] or ()):
            name, _, place = face["output"].partition("#")
            shard = pq.read_table(io.BytesIO(storage.read_bytes(f"{job.out}/{name}"))).to_pylist()
            assert (shard[int(place)]["key"], shard[int(place)]["face"]) == (key, number)
            assert shard[int(place)]["landmarks"] == face["landmarks"] and len(face["box"]) == 4
    assert sum(group.rows for group in find_groups(f"{job.out}/faces/shards")) == 8
    report = storage.read_bytes(summary["report"]).decode()
    assert "without a face" in report and "not an image of a known format" in report
    assert Image.open(io.BytesIO(storage.read_bytes(summary["sheet"]))).width > 400

    # Again: nothing to do; a changed photo alone.
    assert ingest(job)["converted"] == 0
    objects.put(f"{bucket}/in", {"nobody.png": photos["ann/portrait.jpg"]})
    again = ingest(job)
    assert (again["converted"], again["done_before"], again["no_face"], again["faces"]) == (1, 6, 0, 9)
    assert len(faces(job.out)) == 9


def test_the_largest_face_alone_and_other_settings_in_the_same_place_are_refused(
    yunet, photos, tmp_path, ray_cluster
) -> None:
    storage.write_bytes(f"{tmp_path}/in/group.png", photos["group.png"])
    job = Ingestion(f"{tmp_path}/in", f"{tmp_path}/out", detector=str(yunet), faces="largest", size=64, format="png")
    assert ingest(job)["faces"] == 1
    (face,) = faces(job.out)
    assert Image.open(io.BytesIO(face["image"])).size == (64, 64)
    assert json.loads((tmp_path / "out/faces/ingestion.json").read_text())["size"] == 64
    changed = r"\(faces: largest → all, format: png → jpeg, size: 64 → 152\)"
    with pytest.raises(UserError, match=f"an ingestion with other settings {changed}"):
        ingest(Ingestion(f"{tmp_path}/in", f"{tmp_path}/out", detector=str(yunet)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "--size 4 must lie between"),
        ({"confidence": 2.0}, "--confidence 2.0 must lie between"),
        ({"identity": "("}, r"--identity \(: not a regular expression"),
        ({"detector": "nowhere.onnx"}, "--detector nowhere.onnx: the face detector's file cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, options, message) -> None:
    with pytest.raises(UserError, match=message):
        ingest(Ingestion(str(tmp_path), f"{tmp_path}/out", **options))
    assert not (tmp_path / "out").exists()


def test_ingestion_does_without_torch_and_matplotlib() -> None:
    """They take seconds to import, in the driver and in each actor, before the first photo is looked at."""
    code = (
        "import sys, dtn_ray.bulk.outcome, dtn_ray.ingest.job, dtn_ray.bulk.actor\n"
        "sys.exit(bool({'torch', 'matplotlib'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=250).returncode == 0
