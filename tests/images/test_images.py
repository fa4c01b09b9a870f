"""How images are found, decoded, converted and written."""

import re
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from files import encode
from PIL import Image

from dtn_ray import storage
from dtn_ray.bulk.pipeline import Found, Pipeline
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.convert.pipeline import Converter
from dtn_ray.data.digits.street_digits import street_digits
from dtn_ray.errors import UserError
from dtn_ray.images.budget import Budget
from dtn_ray.images.decode import decode, decoded, photo
from dtn_ray.ingest.faces import WITHOUT_FACE
from dtn_ray.train.trained import load_trained

# Finding and decoding images


RED = (255, 0, 0)
PALETTE = [255, 0, 0, 0, 0, 255]


def image(mode: str, colour) -> Image.Image:
    if mode == "P":
        made = Image.new("P", (40, 40), colour)
        made.putpalette(PALETTE)
        return made
    if mode == "I;16":
        return Image.fromarray(np.full((40, 40), colour, np.uint16))
    return Image.new(mode, (40, 40), colour)


@pytest.mark.parametrize(
    ("mode", "colour", "form", "options", "expected"),
    [
        ("1", 1, "png", {}, (255, 255, 255)),
        ("1", 0, "png", {}, (0, 0, 0)),
        ("L", 100, "png", {}, (100, 100, 100)),
        ("L", 100, "jpeg", {}, (100, 100, 100)),
        ("L", 100, "png", {"transparency": 100}, (255, 255, 255)),
        ("LA", (100, 255), "png", {}, (100, 100, 100)),
        ("LA", (100, 0), "png", {}, (255, 255, 255)),
        ("LA", (0, 51), "png", {}, (204, 204, 204)),
        ("P", 0, "png", {}, RED),
        ("P", 1, "gif", {}, (0, 0, 255)),
        ("P", 1, "png", {"transparency": 0}, (0, 0, 255)),
        ("P", 0, "png", {"transparency": 0}, (255, 255, 255)),
        ("RGB", (10, 20, 30), "png", {}, (10, 20, 30)),
        ("RGB", (10, 20, 30), "webp", {"lossless": True}, (10, 20, 30)),
        ("RGB", (10, 20, 30), "bmp", {}, (10, 20, 30)),
        ("RGB", (10, 20, 30), "png", {"transparency": (10, 20, 30)}, (255, 255, 255)),
        ("RGBA", (*RED, 255), "png", {}, RED),
        ("RGBA", (*RED, 0), "png", {}, (255, 255, 255)),
        ("RGBA", (*RED, 51), "png", {}, (255, 204, 204)),
        ("CMYK", (0, 255, 255, 0), "tiff", {}, RED),
        ("CMYK", (0, 0, 0, 255), "jpeg", {}, (0, 0, 0)),
        ("I;16", 200 * 257, "png", {}, (200, 200, 200)),
        ("F", 0.5, "tiff", {}, (255, 255, 255)),
        ("I;16", 65535, "tiff", {}, (255, 255, 255)),
    ],
)
def test_images_of_any_mode_become_rgb_on_white(mode, colour, form, options, expected):
    pixels = decode(encode(image(mode, colour), form, **options), 32, 10_000)
    assert pixels.shape == (3, 32, 32) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert abs(pixels.astype(int) - np.array(expected)[:, None, None]).max() <= (2 if form == "jpeg" else 1)


def test_images_are_cropped_to_their_central_square():
    wide = Image.new("RGB", (96, 32), RED)
    wide.paste((0, 0, 255), (32, 0, 64, 32))
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    for picture in (wide, tall):
        pixels = decode(encode(picture), 32, 10_000)
        assert (pixels == np.array([0, 0, 255], np.uint8)[:, None, None]).all()


@pytest.mark.parametrize("size", [16, 32, 64])
def test_images_are_scaled_to_the_size_asked_for(size):
    halves = Image.new("RGB", (50, 50), "white")
    halves.paste((0, 0, 0), (0, 0, 25, 50))
    pixels = decode(encode(halves), size, 10_000)
    assert pixels.shape == (3, size, size)
    assert (pixels[:, :, : size // 4] == 0).all() and (pixels[:, :, -size // 4 :] == 255).all()


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1)])
def test_images_of_one_pixel_a_side_are_images_too(shape):
    assert (decode(encode(Image.new("RGB", shape, RED)), 32, 500)[0] == 255).all()


def test_the_first_frame_of_an_animation_is_taken():
    content = encode(image("P", 0), "gif", save_all=True, append_images=[image("P", 1)])
    assert decode(content, 32, 10_000)[:, 0, 0].tolist() == list(RED)


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "tiff"])
def test_photos_are_turned_upright(form):
    stored = Image.new("RGB", (64, 64), RED)
    stored.paste((0, 0, 255), (0, 32, 64, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # "the 0th row is the visual right-hand side, the 0th column the visual top"
    pixels = decode(encode(stored, form, exif=exif), 32, 10_000).astype(int)
    left, right = pixels[:, :, :12].mean((1, 2)), pixels[:, :, 20:].mean((1, 2))
    np.testing.assert_allclose(left, (0, 0, 255), atol=12)
    np.testing.assert_allclose(right, RED, atol=12)


def png(width: int, height: int) -> bytes:
    """The header of a PNG of that size, without its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (encode(NOISE, "eps"), "not an image of a known format"),
        (b"just some text", "not an image of a known format"),
        (b"\x89PNG\r\n\x1a\n", "damaged image: a PNG without its header"),
        (encode(NOISE, "jpeg")[:2000], "cut short: a part of the picture is missing"),
        (encode(NOISE, "png")[:5000], "cut short: a part of the picture is missing"),
        (encode(NOISE, "webp")[:1000], "cut short: a part of the picture is missing"),
        (encode(NOISE, "tiff")[:5000], "cut short: a part of the picture is missing"),
        (png(60, 60), "damaged image: the pixels cannot be unpacked"),
        (png(10_000, 10_000), "10000×10000 pixels, more than the limit of 3600"),
    ],
    ids=[
        "empty",
        "EPS",
        "text",
        "PNG signature",
        "JPEG cut",
        "PNG cut",
        "WebP cut",
        "TIFF cut",
        "no pixels",
        "10^8 pixels",
    ],
)
def test_unreadable_images_are_refused_with_the_reason(content, reason):
    with pytest.raises(ValueError, match=reason):
        decode(content, 32, 3600)


def test_the_limit_on_pixels_is_inclusive_and_told_before_decoding():
    content = encode(Image.new("RGB", (11, 10)))
    assert decode(content, 32, 110).shape == (3, 32, 32)
    with pytest.raises(ValueError, match="11×10 pixels, more than the limit of 109"):
        decode(content, 32, 109)


def test_the_reason_for_refusing_a_giant_image_is_its_size():
    with pytest.raises(ValueError, match="more than the limit of 50000000"):
        decode(png(100_000, 100_000), 32, 50_000_000)


def resized(content: bytes, width: int, height: int) -> bytes:
    """A JPEG that claims another size, so that nearly all of its data are missing: for what is told before decoding."""
    place = next(content.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in content)
    return content[: place + 5] + struct.pack(">HH", height, width) + content[place + 9 :]


def test_by_default_photos_of_a_200_megapixel_phone_are_taken():
    limit = Conversion("runs/dtn", "in", "out").max_pixels
    assert limit >= 8688 * 5792, "those of a 50-megapixel camera, of any format"
    phone = encode(Image.new("L", (16320, 12240), 90), "jpeg")
    assert (decode(phone, 64, limit) == 90).all()
    with decoded(phone, limit, 1280) as (pixels, scale):
        assert pixels.shape == (1530, 2040, 3) and scale == 8


def test_a_jpeg_of_too_many_pixels_comes_at_the_size_that_has_no_more():
    content = encode(NOISE.resize((400, 300)), "jpeg")
    for limit, scale in ((120_000, 1), (119_999, 2), (30_000, 2), (29_999, 4), (7_500, 4), (7_499, 8)):
        pixels, found = photo(content, limit)
        assert found == pytest.approx(scale, rel=0.03) and pixels.size <= 3 * limit
    with pytest.raises(ValueError, match="400×300 pixels, more than the limit of 1800"):
        photo(content, 1800)


def test_a_progressive_jpeg_counts_whole_since_its_decoder_holds_it_whole():
    content = encode(NOISE.resize((400, 300)), "jpeg", progressive=True)
    assert decode(content, 16, 120_000).shape == (3, 16, 16)
    for at_least in (None, 16):
        with pytest.raises(ValueError, match="400×300 pixels, more than the limit of 119999"):
            photo(content, 119_999, at_least)
    with pytest.raises(ValueError, match="60000×60000 pixels, more than the limit"):
        photo(resized(content, 60_000, 60_000), 120_000_000)


def test_threads_hold_no_more_pixels_at_once_than_there_is_room_for(monkeypatch):
    budget = Budget(8000)
    monkeypatch.setattr("dtn_ray.images.decode._memory", budget)
    content, most, held = encode(Image.new("RGB", (20, 20))), [], []

    def work(_: int) -> None:
        with decoded(content, 400) as (pixels, _scale):
            held.append(pixels.size)
            most.append(len(held))
            time.sleep(0.01)
            held.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert max(most) == 2, "of some 3000 bytes each"
    assert len(most) == 24 and budget.left == 8000


def test_an_image_larger_than_all_the_room_is_refused(monkeypatch):
    budget = Budget(3000)
    monkeypatch.setattr("dtn_ray.images.decode._memory", budget)
    with decoded(encode(Image.new("RGB", (20, 20))), 400) as (pixels, _):
        assert pixels.shape == (20, 20, 3) and budget.left < 3000
    with pytest.raises(ValueError, match="20×22 pixels would take 0 MiB to decode, more than the limit of 0 MiB"):
        photo(encode(Image.new("RGB", (20, 22))), 440)
    with pytest.raises(ValueError, match="cut short"):
        photo(encode(Image.effect_noise((20, 20), 50).convert("RGB"))[:-40], 400)
    assert budget.left == 3000, "given back after a failure too"


def outcome(content: bytes) -> np.ndarray | None:
    """What a conversion records and goes on from: the picture, or None for a refusal with a reason."""
    try:
        return decode(content, 32, 10_000)
    except ValueError as error:
        assert str(error)
        return None


def metadata_of(content: bytes) -> range:
    """Where a picture written by Pillow with 200 bytes of comment has them."""
    start = content.index(b"comment" * 20)
    return range(start, start + 140)


COMMENTS = {
    "jpeg": lambda text: {"comment": text},
    "png": lambda text: {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + text},
    "webp": lambda text: {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + text, "lossless": True},
    "tiff": lambda text: {"tiffinfo": {270: text.decode()}},
    "gif": lambda text: {"comment": text},
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", COMMENTS)
def test_damaged_metadata_leave_every_picture_as_it_is(form):
    whole = encode(NOISE, form, **COMMENTS[form](b"comment" * 20))
    expected, random = decode(whole, 32, 10_000), np.random.default_rng(0)
    for _ in range(100):
        content = bytearray(whole)
        for position in random.choice(metadata_of(whole), 8):
            content[position] = random.integers(256)
        found = outcome(bytes(content))
        assert found is not None and (found == expected).all()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", ["jpeg", "png", "gif", "webp", "bmp", "tiff"])
def test_damaged_bytes_anywhere_end_in_a_picture_or_a_reason(form):
    """Bytes of the picture itself are hit too, so that either is right; no other error comes out."""
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encode(NOISE, form, **({"exif": exif} if form in ("jpeg", "png", "webp", "tiff") else {}))
    random, taken = np.random.default_rng(0), 0
    for _ in range(150):
        content = bytearray(whole)
        for position in random.integers(0, random.choice([64, 400, len(whole)]), 4):
            content[position] = random.integers(256)
        found = outcome(bytes(content))
        taken += found is not None and found.shape == (3, 32, 32)
    assert taken >= 10, "damage does not refuse all"


def found_below(made, folder) -> int:
    """How many images a conversion finds."""
    return convert(Conversion(f"{made}/dtn", str(folder), f"{made}/nowhere", dry_run=True))["images"]


def test_images_are_found_in_all_folders_below(made, tmp_path):
    for name in ("b.png", "a/z.JPG", "a/b/c.webp", "a/notes.txt", "c.jpeg.part", "d.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = ["a/b/c.webp", "a/z.JPG", "b.png", "d.tiff"]
    assert found_below(made, tmp_path) == found_below(made, f"{tmp_path}/") == len(found)
    assert [key for key in storage.list_keys(str(tmp_path)) if key in found] == found


def test_a_folder_named_like_an_image_is_none(made, tmp_path):
    (tmp_path / "album.png").mkdir()
    (tmp_path / "album.png/a.png").touch()
    assert found_below(made, tmp_path) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "gone: no such folder or prefix"),
        ("empty", "empty: no images there"),
        ("texts", "texts: no images there"),
        ("texts/a.txt", "a.txt: no such folder or prefix"),
    ],
)
def test_sources_without_images_are_refused(made, tmp_path, name, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for text in ("a.txt", "b.csv"):
        (tmp_path / "texts" / text).touch()
    with pytest.raises(UserError, match=re.escape(reason)):
        found_below(made, tmp_path / name)


# Converting a batch


@pytest.fixture
def photos(tmp_path) -> Path:
    images, _ = street_digits(2, seed=9)
    contents = {
        "a.png": encode(Image.fromarray(images[0].transpose(1, 2, 0))),
        "sub/b.png": encode(Image.fromarray(images[1].transpose(1, 2, 0))),
        "text.png": b"just some text",
    }
    for name, content in contents.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


def convert_batch(made: Path, photos: Path, keys: list[str]) -> list[dict]:
    job = Conversion(f"{made}/dtn", str(photos), str(photos.parent / "out"), threads=2)
    work = pa.table({"key": keys, "version": ["v"] * len(keys), "size": pa.nulls(len(keys), pa.int64())})
    return Converter(job)(work).to_pylist()


def test_a_batch_keeps_its_order_and_one_bad_image_stops_nothing(made, photos):
    rows = convert_batch(made, photos, ["text.png", "sub/b.png", "gone.png", "a.png"])
    assert [row["key"] for row in rows] == ["text.png", "sub/b.png", "gone.png", "a.png"]
    assert [row["status"] for row in rows] == ["failed", "converted", "failed", "converted"]
    assert rows[0]["reason"] == "not an image of a known format" and rows[2]["reason"]
    assert [row["cause"] for row in rows] == ["image", None, "gone", None]
    images = f"{load_trained(f'{made}/dtn').digest[:12]}/images"
    assert [row["output"] for row in rows] == [None, f"{images}/sub/b.png.png", None, f"{images}/a.png.png"]
    assert sorted(path.name for path in (photos.parent / "out").rglob("*.*")) == ["a.png.png", "b.png.png"]


def test_converted_images_are_G_of_their_sources_with_the_distance_in_f(made, photos):
    rows = convert_batch(made, photos, ["a.png", "sub/b.png"])
    dtn = load_trained(f"{made}/dtn").dtn
    images, _ = street_digits(2, seed=9)
    x = torch.tensor(images) / 127.5 - 1
    with torch.no_grad():
        G_x = dtn.G(x)
        scores = (dtn.f(x) - dtn.f(G_x)).norm(dim=1)
    for row, pixels, score in zip(rows, G_x, scores, strict=True):
        written = np.asarray(Image.open(photos.parent / "out" / row["output"])).astype(int)
        assert abs(written - ((pixels[0] + 1) * 127.5).numpy()).max() <= 0.51
        assert row["score"] == pytest.approx(score.item(), rel=1e-3)


class Crowd(Pipeline):
    """Counts how many decode at once."""

    def __init__(self, job: Conversion, cpus: int | None) -> None:
        super().__init__(job, 64, cpus=cpus)
        self.now = self.most = self.done = 0
        self.lock = threading.Lock()

    def find(self, content: bytes) -> Found:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.01)
        with self.lock:
            self.now -= 1
            self.done += 1
        return WITHOUT_FACE


@pytest.mark.parametrize(("cpus", "most"), [(1, 1), (2, 2), (None, 4)])
def test_as_many_images_are_decoded_at_once_as_there_are_cpus_for(tmp_path, cpus, most):
    keys = [f"{i}.png" for i in range(64)]
    for key in keys:
        storage.write_bytes(f"{tmp_path}/in/{key}", b"some image")
    crowd = Crowd(Conversion("", f"{tmp_path}/in", f"{tmp_path}/out", threads=4), cpus)
    sizes = pa.nulls(len(keys), pa.int64())  # counted as a megabyte each: four threads fetch sixteen each
    rows = crowd(pa.table({"key": keys, "version": keys, "size": sizes})).to_pylist()
    assert [row["status"] for row in rows] == ["no face"] * 64 and crowd.most == most


def test_fetching_does_not_run_ahead_of_decoding(tmp_path, monkeypatch):
    keys = [f"{i}.png" for i in range(96)]
    for key in keys:
        storage.write_bytes(f"{tmp_path}/in/{key}", b"some image")
    crowd = Crowd(Conversion("", f"{tmp_path}/in", f"{tmp_path}/out", threads=2), cpus=1)
    fetched, waiting, read_many = 0, list[int](), storage.read_many

    def read(uris):
        nonlocal fetched
        contents = read_many(uris)
        with crowd.lock:
            fetched += len(uris)
            waiting.append(fetched - crowd.done)
        return contents

    monkeypatch.setattr(storage, "read_many", read)
    crowd(pa.table({"key": keys, "version": keys, "size": pa.nulls(len(keys), pa.int64())}))
    assert fetched == crowd.done == 96 and max(waiting) <= 2 * 16


def test_an_image_that_cannot_be_written_is_a_failure_with_its_reason(made, photos):
    (photos.parent / "out").write_text("a file where the folder should be")
    (row,) = convert_batch(made, photos, ["a.png"])
    assert (row["status"], row["cause"], row["output"]) == ("failed", "store", None)
    assert row["reason"].startswith("cannot be written: ")
