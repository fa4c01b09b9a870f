"""Pictures that are small as files and large, or slow, to decode: what they take is told from the header."""

import io
import struct
import zlib

import numpy as np
import pytest
from measured import decode as decode_measured
from measured import in_a_process
from PIL import Image

from dtn_ray.images import cost, repair
from dtn_ray.images.budget import Budget
from dtn_ray.images.decode import BYTES_AT_ONCE, decode, photo

LIMIT = 120_000_000


def decoded(content: bytes, threads: int = 1) -> dict:
    """What a process of its own tells: MiB that it grew by, seconds, and what came of the square and of the whole."""
    return in_a_process(decode_measured, content, threads)


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff(tags: dict[int, int | list[int]], data: bytes) -> bytes:
    """A TIFF of one strip or tile; the values of tags are LONGs, and DATA stands for the place of the data."""
    place = 8 + 2 + 12 * len(tags) + 4
    entries, more = [], b""
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, list) else [value]
        raw = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            raw, more = struct.pack("<I", place + len(more)), more + raw
        entries.append(struct.pack("<HHI", tag, 4, len(values)) + raw)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4) + more
    return head.replace(struct.pack("<I", DATA), struct.pack("<I", len(head))) + data


DATA = 0x7EADBEEF
GREY = {258: 8, 259: 8, 262: 1, 277: 1}


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(content: bytes, chunks: bytes) -> bytes:
    """A PNG with more chunks behind its header."""
    return content[:33] + chunks + content[33:]


def webp_of_34_bytes() -> bytes:
    bits = struct.pack("<I", (10_000 - 1) | (10_000 - 1) << 14)
    body = b"\x2f" + bits + b"\x88\x88\x08".ljust(9, b"\0")
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def webp_of_a_large_canvas() -> bytes:
    frame = saved(Image.new("RGB", (8, 8)), "webp", lossless=True)[12:]
    head = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + b"\xff\x3f\0" * 2
    animation = b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body = bytes(12) + b"\0\0\0\0" + frame
    return b"RIFF" + bytes(4) + b"WEBP" + head + animation + b"ANMF" + struct.pack("<I", len(body)) + body


def gif_of_a_large_frame() -> bytes:
    """Whose frame is larger than the screen, and is to be filled when it is over."""
    control = b"!\xf9\4\x08\0\0\0\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\2\2\x44\1\0"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + control + frame + b";"


def bmp_of_runs(width: int, height: int, data: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + head + bytes(1024) + data


def in_scans(count: int) -> bytes:
    """A progressive JPEG of 36 megapixels whose last scan comes again and again."""
    content = saved(Image.new("L", (6000, 6000), 90), "jpeg", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


def avif_that_claims(size: int) -> bytes:
    """An AVIF of 1200×1200 pixels that is said to be smaller."""
    content = bytearray(saved(Image.new("RGB", (1200, 1200), (9, 99, 200)), "avif", speed=10))
    place = content.index(b"ispe")
    content[place + 8 : place + 16] = struct.pack(">II", size, size)
    return bytes(content)


def overlay() -> bytes:
    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    item = box(b"infe", b"\2\0\0\0" + struct.pack(">HH", 1, 0) + b"iovl\0")
    meta = box(b"meta", bytes(4) + box(b"iinf", bytes(4) + struct.pack(">H", 1) + item))
    return box(b"ftyp", b"heic" + bytes(4) + b"mif1heic") + meta


PICTURE = saved(Image.effect_noise((40, 30), 60).convert("RGB"), "png", compress_level=1)
PHOTO = saved(Image.effect_noise((40, 30), 60).convert("RGB"), "jpeg")
MUCH = "MiB to decode, more than the limit"
SLOW = "would take minutes"

REFUSED = {
    "a WebP of 34 bytes and 100 megapixels": (webp_of_34_bytes, MUCH),
    "an animated WebP of a large canvas": (webp_of_a_large_canvas, "more than the limit of 120000000"),
    "a TIFF of 16×16 pixels in a tile of a gigabyte": (
        lambda: tiff(
            GREY | {256: 16, 257: 16, 322: 32768, 323: 32768, 324: DATA, 325: 1 << 20}, zlib.compress(bytes(1 << 20))
        ),
        MUCH,
    ),
    "a TIFF of a million rows in tiles that are far wider": (
        lambda: tiff(
            GREY | {256: 16, 257: 1_000_000, 322: 1 << 18, 323: 16, 324: DATA, 325: 1000}, zlib.compress(bytes(1 << 20))
        ),
        SLOW,
    ),
    "a TIFF of more strips than any picture": (
        lambda: tiff(GREY | {256: 1, 257: 50_000_000, 278: 1, 273: DATA, 279: 9}, zlib.compress(b"\0")),
        "strips or tiles",
    ),
    "a GIF whose frame is 65535×65535": (gif_of_a_large_frame, "more than the limit of 120000000"),
    "a BMP with run lengths and too many pixels for Python": (
        lambda: bmp_of_runs(110_000_000, 1, b"\0\2\0\xff\0\1"),
        SLOW,
    ),
    "a JPEG of a thousand scans": (lambda: in_scans(1000), SLOW),
    "a HEIF that is put together from others": (overlay, "not supported"),
}
TAKEN = {
    "a PNG whose text is 64 MiB": lambda: with_chunks(
        PICTURE,
        b"".join(png_chunk(b"zTXt", b"c%d\0\0" % i + zlib.compress(b"x" * 1_000_000)) for i in range(64)),
    ),
    "a PNG whose profile is 256 MiB": lambda: with_chunks(
        PICTURE, png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(1 << 28)))
    ),
    "a JPEG of 200,000 empty segments": lambda: PHOTO[:2] + b"\xff\xe5\0\2" * 200_000 + PHOTO[2:],
    "a JPEG with two megabytes of filling": lambda: PHOTO[:2] + b"\xff" * 2_000_000 + PHOTO[2:],
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_take_too_much_is_refused_from_its_header(case):
    make, reason = REFUSED[case]
    found = decoded(make())
    assert all(reason in said for said in found["said"]), found
    assert found["grown"] < 150 and found["seconds"] < 20, found


@pytest.mark.parametrize("case", TAKEN)
def test_metadata_without_bounds_are_left_out_and_the_picture_is_taken(case):
    found = decoded(TAKEN[case]())
    assert found["said"] == ["(3, 64, 64)", "(30, 40, 3)"], found
    assert found["grown"] < 250 and found["seconds"] < 20, found


def test_an_avif_counts_by_what_is_coded_not_by_what_it_claims():
    working = cost.check(avif_that_claims(16)).working
    assert 1200 * 1200 * 3 <= working <= 1200 * 1200 * 12
    assert decoded(avif_that_claims(16))["grown"] < 60


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("png", {"compress_level": 1}),
        ("jpeg", {}),
        ("jpeg", {"progressive": True}),
        ("bmp", {}),
        ("gif", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("webp", {"lossless": True, "quality": 0, "method": 0}),
        ("avif", {"speed": 10}),
        ("heif", {"enc_params": {"preset": "ultrafast"}}),
    ],
)
def test_a_photo_takes_no_more_than_is_counted(format, options, monkeypatch):
    """Of 9 megapixels: large beside what a process takes anyway, and quick to make."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    image = Image.fromarray(noise).resize((3000, 3000))
    content = saved(image.convert("P") if format == "gif" else image, format, **options)
    counted = []
    take = Budget.take
    monkeypatch.setattr(Budget, "take", lambda self, count: counted.append(count) or take(self, count))
    photo(content, LIMIT)
    found = decoded(content)
    assert found["said"] == ["(3, 64, 64)", "(3000, 3000, 3)"]
    assert found["grown"] << 20 <= 1.1 * max(counted) + (16 << 20), (found, max(counted) >> 20)
    assert max(counted) * 48 / 9 < BYTES_AT_ONCE, "or a phone's photos of 48 megapixels would be refused"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["png", "jpeg", "tiff", "webp", "avif", "heif", "gif"])
def test_sixteen_threads_on_large_photos_stay_below_a_gibibyte_and_a_half(format):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    options = {
        "png": {"compress_level": 1},
        "jpeg": {"progressive": True},
        "avif": {"speed": 10},
        "webp": {"method": 0},
        "heif": {"enc_params": {"preset": "ultrafast"}},
    }.get(format, {})
    image = Image.fromarray(noise).resize((6000, 6000))
    content = saved(image.convert("P") if format == "gif" else image, format, **options)
    found = decoded(content, threads=16)
    assert found["said"] == ["(3, 64, 64)", "(6000, 6000, 3)"]
    assert found["grown"] < 1536, found


def test_a_bmp_that_is_cut_short_is_completed_within_bounds():
    """Of 60 bytes, whose header tells of gigabytes: of pixels that are few, in bits that no picture has."""
    head = struct.pack("<IiiHHIIiiII", 40, 1000, 1000, 1, 65535, 0, 0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="the whole would have 7812 MiB"):
        repair.completed(b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + head + bytes(6))
    whole = saved(Image.new("RGB", (40, 30), "teal"), "bmp")
    assert len(repair.completed(whole[:100])) == len(whole)


@pytest.mark.parametrize("compression", [0, 3, 7])
def test_a_bmp_counts_by_what_its_header_tells_whatever_else_is_wrong_with_it(compression):
    head = struct.pack("<IiiHHIIiiII", 40, 60_000, -60_000, 1, 77, compression, 0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="60000×60000 pixels, more than the limit"):
        decode(b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + head + bytes(6), 8, LIMIT)


def test_a_palette_that_is_missing_is_told():
    content = bytearray(saved(Image.new("P", (8, 8)), "png", transparency=3))
    place = content.index(b"PLTE") - 4
    length = 12 + int.from_bytes(content[place : place + 4], "big")
    with pytest.raises(ValueError, match="damaged image"):
        decode(bytes(content[:place] + content[place + length :]), 8, LIMIT)
