"""Conversion by a DTN of faces: an emoji for every face of a photo."""

import io
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from files import encode, write_face_network, write_faces_dtn
from objects import Objects
from PIL import Image

from dtn_ray import storage
from dtn_ray.checkpoints import checkpoint
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.convert.pipeline import Converter
from dtn_ray.errors import UserError
from dtn_ray.faces.find import FaceFinder
from dtn_ray.method.pixels import to_float, to_uint8
from dtn_ray.models.srcnn import SRCNN, upscale
from dtn_ray.super_resolution.options import SuperResolution
from dtn_ray.train.trained import load_trained


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("faces")
    return write_faces_dtn(folder / "dtn", write_face_network(folder / "f.onnx", seed=1), size=48)


@pytest.fixture(scope="module")
def photos(portrait) -> dict[str, bytes]:
    group = Image.new("RGB", (1000, 420), "white")
    for width, left in ((150, 10), (300, 300), (220, 680)):
        group.paste(portrait.resize((width, width * 600 // 512)), (left, 20))
    return {
        "one.jpg": encode(portrait, "jpeg"),
        "deep/three.png": encode(group),
        "nobody.png": encode(Image.effect_noise((200, 200), 60)),
        "broken.jpg": encode(portrait, "jpeg")[:1500],
    }


def expected(model: str, pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """G(x) and the score, straight from the networks."""
    dtn = load_trained(model).dtn
    x = to_float(pixels.transpose(2, 0, 1)[None])
    with torch.no_grad():
        G_x = dtn.G(x)
        return to_uint8(G_x)[0].permute(1, 2, 0).numpy(), float((dtn.f(x) - dtn.f(G_x)).norm())


def test_every_face_becomes_an_emoji(model, photos, yunet, bucket, s3_server, ray_cluster) -> None:
    objects = Objects(s3_server)
    objects.put(f"{bucket}/in", photos)
    job = Conversion(model, f"{bucket}/in", f"{bucket}/out", detector=str(yunet))
    summary = convert(replace(job, actors=1))
    assert (summary["converted"], summary["no_face"], summary["failed"], summary["faces"]) == (2, 1, 1, 4)
    rows = objects.newest(job.out)
    images = objects.images(job.out)
    folder = f"{summary['model']}/images"
    assert [face["output"] for face in rows["deep/three.png"]["faces"]] == [
        f"{folder}/deep/three.png{ending}.png" for ending in ("", "%2", "%3")
    ]
    assert set(images) == {face["output"] for row in rows.values() for face in row["faces"] or ()}
    finder = FaceFinder(yunet.read_bytes(), job.max_pixels, size=48)
    for key in ("one.jpg", "deep/three.png"):
        assert rows[key]["output"] == rows[key]["faces"][0]["output"]
        for face, (found, pixels) in zip(rows[key]["faces"], finder(photos[key]), strict=True):
            emoji, score = expected(model, pixels)
            made = np.asarray(Image.open(io.BytesIO(images[face["output"]])).convert("RGB"))
            assert np.abs(made.astype(int) - emoji).max() <= 1
            assert face["score"] == pytest.approx(score, rel=1e-3)
            assert face["box"] == pytest.approx(found.box, rel=1e-5)
    assert rows["nobody.png"]["status"] == "no face" and rows["nobody.png"]["output"] is None
    assert "without a face" in storage.read_bytes(summary["report"]).decode()
    assert convert(job)["converted"] == 0

    # The largest alone is another result, beside the first.
    largest = convert(replace(job, faces="largest"))
    assert largest["faces"] == 2 and largest["model"] != summary["model"]


def test_shards_hold_a_row_for_each_face(model, photos, yunet, tmp_path, ray_cluster) -> None:
    for key, content in photos.items():
        storage.write_bytes(f"{tmp_path}/in/{key}", content)
    job = Conversion(model, f"{tmp_path}/in", f"{tmp_path}/out", detector=str(yunet), shards="parquet")
    summary = convert(job)
    (shard,) = (tmp_path / "out" / summary["model"] / "shards").glob("*.parquet")
    rows = pq.read_table(shard).to_pylist()
    assert [(row["key"], row["face"]) for row in rows] == [("deep/three.png", i) for i in range(3)] + [("one.jpg", 0)]
    ledger = {row["key"]: row for row in pq.read_table(tmp_path / "out/ledger").to_pylist()}
    assert [face["output"].partition("#")[2] for face in ledger["deep/three.png"]["faces"]] == ["0", "1", "2"]
    assert ledger["one.jpg"]["output"].endswith("#3")


def test_images_are_enlarged_before_they_are_written(model, portrait, tmp_path, ray_cluster) -> None:
    storage.write_bytes(f"{tmp_path}/in/a.png", encode(portrait.crop((0, 0, 512, 512)).resize((48, 48))))
    torch.manual_seed(0)
    config = SuperResolution("photos", factors=(2,))
    network = SRCNN(config.middle)
    checkpoint.save(tmp_path / "sr", "super_resolution", config, {"srcnn": network})
    plain = Conversion(model, f"{tmp_path}/in", f"{tmp_path}/out", aligned=True)
    large = replace(plain, upscale=2, super_resolution=f"{tmp_path}/sr")
    folders = [convert(job)["folder"] for job in (plain, large)]
    before, after = (Image.open(f"{folder}/images/a.png.png") for folder in folders)
    assert (before.size, after.size) == ((64, 64), (128, 128))
    x = to_float(np.asarray(before)[None].transpose(0, 3, 1, 2))
    with torch.no_grad():
        expected = to_uint8(upscale(network, x, 2))[0].permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(after).astype(int) - expected).mean() < 1, "but for the rounding of what was written"
    for options, message in (
        ({"upscale": 2}, "--upscale 2 needs a network"),
        ({"super_resolution": f"{tmp_path}/sr"}, "--super-resolution needs --upscale"),
        ({"upscale": 3, "super_resolution": f"{tmp_path}/sr"}, "enlarges 2 times, not 3"),
    ):
        with pytest.raises(UserError, match=message):
            convert(replace(plain, **options))


@pytest.mark.parametrize(("batch_size", "passes"), [(None, [8, 2]), (4, [4, 4, 2]), (64, [10])])
def test_faces_pass_through_the_networks_in_parts(model, portrait, tmp_path, monkeypatch, batch_size, passes) -> None:
    for i in range(10):
        storage.write_bytes(f"{tmp_path}/in/{i}.png", encode(portrait.crop((i, 0, 512, 512 - i)).resize((48, 48))))
    seen, whole = [], Converter._pass_through

    def pass_through(self: Converter, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(x))
        return whole(self, x)

    monkeypatch.setattr(Converter, "_pass_through", pass_through)
    job = Conversion(model, f"{tmp_path}/in", f"{tmp_path}/out", aligned=True, batch_size=batch_size)
    assert convert(job)["converted"] == 10 and seen == passes


def test_faces_aligned_already_need_no_detector(model, portrait, tmp_path) -> None:
    storage.write_bytes(f"{tmp_path}/in/a.png", encode(portrait.crop((0, 0, 512, 512)).resize((48, 48))))
    job = Conversion(model, f"{tmp_path}/in", f"{tmp_path}/out", aligned=True, dry_run=True)
    assert convert(job)["to_convert"] == 1
    (found,) = Converter(job).find(encode(portrait.resize((48, 48))))
    assert found.pixels.shape == (3, 48, 48) and found.details is None


def test_options_of_faces_are_refused_for_digits(made, tmp_path) -> None:
    for options, message in (({"aligned": True}, "--aligned is for"), ({"detector": "x.onnx"}, "--detector is for")):
        with pytest.raises(UserError, match=message):
            convert(Conversion(f"{made}/dtn", f"{made}/photos", f"{tmp_path}/out", **options))
