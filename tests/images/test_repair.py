"""Files that every viewer shows are taken, whatever lies beside the picture; files that lack a part of it are told."""

import re
import struct
import zlib
from collections.abc import Iterable

import numpy as np
import pytest
from files import encode
from PIL import Image

from dtn_ray.images.decode import photo
from dtn_ray.images.repair import Truncated, completed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore:.*malformed MPO:UserWarning")

RANDOM = np.random.default_rng(0)
SCENE = Image.fromarray(RANDOM.integers(0, 256, (6, 8, 3), np.uint8)).resize((80, 60), Image.Resampling.BICUBIC)
GRAINY = Image.fromarray(
    (np.asarray(SCENE.resize((160, 120)), np.int16) + RANDOM.integers(-12, 13, (120, 160, 3)))
    .clip(0, 255)
    .astype(np.uint8)
)
JPEG, PNG, WEBP = encode(SCENE, "jpeg", quality=90), encode(SCENE, "png"), encode(SCENE, "webp", lossless=True)
AFTER_HEADER = 33  # of a PNG
TURNED = 6  # "the 0th row is the visual right-hand side, the 0th column the visual top"


def pixels(content: bytes, at_least: int | None = None) -> np.ndarray:
    return photo(content, 1_000_000, at_least)[0]


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    right = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", right if crc is None else crc)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A block of EXIF: tag, type, count and the value's four bytes."""
    body = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + body + bytes(4)


ORIENTATION = (0x112, 3, 1, struct.pack(">HH", TURNED, 0))


def with_exif(form: str, block: bytes) -> bytes:
    if form == "jpeg":
        return JPEG[:2] + segment(0xE1, b"Exif\0\0" + block) + JPEG[2:]
    if form == "png":
        return PNG[:AFTER_HEADER] + chunk(b"eXIf", block) + PNG[AFTER_HEADER:]
    made = bytearray(encode(SCENE, "webp", lossless=True, exif=b"Exif\0\0" + exif(ORIENTATION)))
    place = made.index(b"EXIF")
    body = b"EXIF" + struct.pack("<I", len(block)) + block + bytes(len(block) % 2)
    made[place:] = body
    made[4:8] = struct.pack("<I", len(made) - 8)
    return bytes(made)


def whole(form: str) -> np.ndarray:
    return pixels({"jpeg": JPEG, "png": PNG, "webp": WEBP}[form])


ODD_TAGS = {
    "text for a resolution": (0x11A, 2, 4, b"text"),
    "text for the width": (0x100, 2, 4, b"text"),
    "-1/0": (0x11A, 10, 1, b"\xff\xff\xff\xff"),
    "a value beyond the end": (0x10F, 2, 999, b"\0\0\xff\xff"),
    "a count beyond all": (0x10F, 12, 2**32 - 1, b"\xff\xff\xff\xff"),
    "an unknown type": (0x10F, 99, 1, b"text"),
    "GPS beyond the end": (0x8825, 4, 1, b"\xff\xff\xff\xff"),
    "more EXIF in itself": (0x8769, 4, 1, b"\0\0\0\x08"),
    "a thumbnail without a length": (0x201, 4, 1, b"\0\0\0\x08"),
}


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("tag", ODD_TAGS.values(), ids=ODD_TAGS)
def test_a_tag_that_cannot_be_read_leaves_the_orientation(tag, first, form):
    content = with_exif(form, exif(*[ORIENTATION, tag][:: -1 if first else 1]))
    np.testing.assert_array_equal(pixels(content), np.rot90(whole(form), -1))


@pytest.mark.parametrize(
    ("kind", "value"),
    [(1, b"\6\0\0\0"), (2, b"6\0\0\0"), (4, b"\0\0\0\6"), (7, b"\6\0\0\0"), (8, b"\0\6\0\0")],
    ids=["byte", "text", "long", "undefined", "signed"],
)
def test_an_orientation_of_another_type_is_read(kind, value):
    content = with_exif("jpeg", exif((0x112, kind, 1, value)))
    np.testing.assert_array_equal(pixels(content), np.rot90(whole("jpeg"), -1))


def test_exif_that_is_cut_short_after_the_orientation_is_read():
    block = exif(ORIENTATION, (0x10F, 2, 8, b"\0\0\0\x26"))
    for length in range(len(block)):
        expected = np.rot90(whole("jpeg"), -1) if length >= 22 else whole("jpeg")
        np.testing.assert_array_equal(pixels(with_exif("jpeg", block[:length])), expected)


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"junkjunk",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff" + bytes(50),
        exif((0x112, 3, 1, b"\0\x09\0\0")),
    ],
    ids=["empty", "junk", "a header alone", "a directory beyond the end", "a directory of zeros", "orientation 9"],
)
def test_exif_that_tells_nothing_leaves_the_picture_as_it_is_stored(block, form):
    np.testing.assert_array_equal(pixels(with_exif(form, block)), whole(form))


BODIES = {
    "empty": b"",
    "no separator": b"a",
    "text": b"a\0b",
    "unknown compression": b"a\0\5" + bytes(9),
    "no zlib": b"a\0\0junk",
    "large": b"a\0\0" + zlib.compress(bytes(3_000_000)),
    "large iTXt": b"a\0\1\0\0\0" + zlib.compress(bytes(3_000_000)),
    "XMP": b"XML:com.adobe.xmp\0\0\0\0\0<junk tiff:Orientation",
    "raw EXIF": b"Raw profile type exif\0\nexif\n      4\nzz",
    "ones": b"\xff" * 40,
    "zeros": bytes(100),
}
CHUNKS = ["tEXt", "zTXt", "iTXt", "pHYs", "iCCP", "gAMA", "cHRM", "sRGB", "eXIf", "tIME", "sBIT", "bKGD", "hIST"]
CHUNKS += ["acTL", "fcTL", "sPLT", "cICP", "prVt"]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("kind", CHUNKS)
def test_a_chunk_beside_a_pngs_pixels_may_hold_anything(kind, body):
    for crc in (None, 1):
        odd = chunk(kind.encode(), body, crc)
        np.testing.assert_array_equal(pixels(PNG[:AFTER_HEADER] + odd + PNG[AFTER_HEADER:]), np.asarray(SCENE))
        if kind not in ("acTL", "fcTL"):  # behind the pixels these begin another frame
            np.testing.assert_array_equal(pixels(PNG[:-12] + odd + PNG[-12:]), np.asarray(SCENE))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_pngs_of_every_mode_are_repaired(mode):
    picture = SCENE.convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture, np.uint16) * 257)
    content = encode(picture, "png")
    place = content.index(b"IDAT")
    (length,) = struct.unpack_from(">I", content, place - 4)
    end = place + 4 + length
    for odd in (
        content[:AFTER_HEADER] + chunk(b"tEXt", b"a\0b", 1) + content[AFTER_HEADER:],
        content[: end - 4] + b"abcd" + content[end:],  # zlib's checksum, behind the pixels
        content[:end],
        content[:-12],
    ):
        np.testing.assert_array_equal(pixels(odd), pixels(content))


def test_a_pngs_chunk_of_a_wrong_length_is_passed_over():
    for length in (1, 5_000_000):
        odd = struct.pack(">I4s", length, b"tEXt") + b"a\0bcdefgh1234"
        np.testing.assert_array_equal(pixels(PNG[:AFTER_HEADER] + odd + PNG[AFTER_HEADER:]), np.asarray(SCENE))


def test_a_png_whose_size_or_palette_has_a_wrong_checksum_is_refused():
    palette = encode(SCENE.convert("P"), "png")
    place = palette.index(b"PLTE")
    for content in (
        PNG[: AFTER_HEADER - 4] + b"abcd" + PNG[AFTER_HEADER:],
        palette[: place + 5] + b"?" + palette[place + 6 :],
    ):
        with pytest.raises(ValueError, match=r"damaged image: wrong checksum of the (IHDR|PLTE) chunk"):
            pixels(content)


SEGMENTS = {
    "empty": b"",
    "JFIF": b"JFIF",
    "EXIF": b"Exif\0\0",
    "XMP": b"http://ns.adobe.com/xap/1.0/\0<x",
    "ICC alone": b"ICC_PROFILE\0",
    "ICC without a number": b"ICC_PROFILE\0\1",
    "ICC of junk": b"ICC_PROFILE\0\1\1junk",
    "ICC of two, one missing": b"ICC_PROFILE\0\1\2junk",
    "Photoshop": b"Photoshop 3.0\x008BIM",
    "Photoshop cut short": b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\4ab",
    "Photoshop without a name": b"Photoshop 3.0\x008BIM\3\xed",
    "Adobe": b"Adobe",
    "Adobe's version": b"Adobe\0",
    "MPF": b"MPF\0",
    "MPF of five pictures": b"MPF\0MM\0*\0\0\0\x08\0\1\xb0\1\0\4\0\0\0\1\0\0\0\5" + bytes(4),
    "FlashPix": b"FPXR\0",
}


@pytest.mark.parametrize("body", SEGMENTS.values(), ids=SEGMENTS)
def test_a_segment_beside_a_jpegs_data_may_hold_anything(body):
    for marker in (*range(0xE0, 0xF0), 0xFE):
        for place in (2, 20):
            content = JPEG[:place] + segment(marker, body) + JPEG[place:]
            np.testing.assert_array_equal(pixels(content), whole("jpeg"))


@pytest.mark.parametrize(
    "content",
    [
        JPEG[:-2],
        JPEG[:-1],
        JPEG[:-2] + bytes(4000),
        JPEG[:-2] + b"\xff\x01and more",
        JPEG + b"\r\n",
        JPEG + bytes(4000),
        JPEG[:20] + b"junk" + JPEG[20:],
        JPEG[:20] + b"\xff" * 50 + JPEG[20:],
        JPEG[:2] + b"\xff\xe5\0\0" + JPEG[2:],
    ],
    ids=[
        "no end marker",
        "half of it",
        "zeros for it",
        "junk for it",
        "a line end behind it",
        "zeros behind it",
        "junk between segments",
        "fill bytes",
        "a segment of length 0",
    ],
)
def test_bytes_around_a_jpegs_data_change_nothing(content):
    np.testing.assert_array_equal(pixels(content), whole("jpeg"))


def test_what_surrounds_a_webps_picture_changes_nothing():
    content = encode(SCENE, "webp", lossless=True, exif=b"Exif\0\0" + exif(ORIENTATION), icc_profile=b"junk" * 20)
    upright = np.rot90(np.asarray(SCENE), -1)
    for odd in (
        content[:4] + struct.pack("<I", len(content) + 100) + content[8:],
        content[:4] + struct.pack("<I", 30) + content[8:],
        content + b"junk",
        content + b"\0",
    ):
        np.testing.assert_array_equal(pixels(odd), upright)
    np.testing.assert_array_equal(pixels(content[:-20]), np.asarray(SCENE), "cut short within its EXIF")


def test_a_gif_without_its_end_and_with_junk_behind_it():
    content = encode(SCENE, "gif")
    for odd in (content[:-1], content + b"junk"):
        np.testing.assert_array_equal(pixels(odd), pixels(content))


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate"])
def test_tags_beside_a_tiffs_picture_may_hold_anything(compression):
    content = encode(SCENE, "tiff", compression=compression, exif=tiff_exif())
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    tags = {struct.unpack_from("<H", content, start + 2 + 12 * i)[0]: start + 2 + 12 * i for i in range(count)}
    expected, tried = pixels(content), 0
    assert expected.shape == (80, 60, 3), "turned upright"
    for tag in (0x10F, 0x11A, 0x11B, 0x128, 0x131, 700):
        for kind, length, value in (
            (2, 4, b"text"),
            (5, 9, b"\xff" * 4),
            (99, 1, b"\0" * 4),
            (4, 2**32 - 1, b"ab\0\0"),
        ):
            odd = bytearray(content)
            odd[tags[tag] : tags[tag] + 12] = struct.pack("<HHI", tag, kind, length) + value
            np.testing.assert_array_equal(pixels(bytes(odd)), expected)
            tried += 1
    last = max(tags)
    gps = content[: tags[last]] + struct.pack("<HHII", 0x8825, 4, 1, 2**32 - 1) + content[tags[last] + 12 :]
    assert last == 700
    np.testing.assert_array_equal(pixels(gps), expected)
    assert tried == 24


def tiff_exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x112], tags[0x10F], tags[0x131], tags[700] = TURNED, "a maker", "some software", b"<xmp/>"
    tags[0x11A] = tags[0x11B] = 72.0
    tags[0x128] = 2
    return tags


# Cut short


WHOLE = {
    "baseline": encode(GRAINY, "jpeg", quality=90),
    "best": encode(GRAINY, "jpeg", quality=100, subsampling=0),
    "progressive": encode(GRAINY, "jpeg", quality=90, progressive=True),
    "restarts": encode(GRAINY, "jpeg", quality=90, restart_marker_blocks=7),
    "progressive restarts": encode(GRAINY, "jpeg", quality=90, progressive=True, restart_marker_rows=2),
    "grey": encode(GRAINY.convert("L"), "jpeg"),
    "inks": encode(GRAINY.convert("CMYK"), "jpeg"),
    "one colour": encode(Image.new("RGB", (160, 120), (10, 200, 30)), "jpeg"),
    "one colour, progressive": encode(Image.new("RGB", (160, 120), (10, 200, 30)), "jpeg", progressive=True),
    "png": encode(GRAINY, "png"),
    "png of greys": encode(GRAINY.convert("L"), "png"),
    "gif": encode(GRAINY, "gif"),
    "bmp": encode(GRAINY, "bmp"),
    "webp": encode(GRAINY, "webp"),
    "tiff": encode(GRAINY, "tiff"),
    "deflated tiff": encode(GRAINY, "tiff", compression="tiff_adobe_deflate"),
    "heif": encode(GRAINY, "heif"),
    "avif": encode(GRAINY, "avif"),
}
IN_PART = [name for name in WHOLE if not re.search("tiff|webp|heif|avif", name)]


def cuts(content: bytes) -> Iterable[int]:
    """Lengths: every tenth, all near the end, and around restart markers."""
    restarts = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", content)][
        :: 9 if len(content) > 9000 else 3
    ]
    return sorted(
        {len(content) * i // 10 for i in range(1, 10)}
        | set(range(len(content) - 12, len(content)))
        | {place + i for place in restarts for i in (0, 1, 2)}
    )


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_cut_short_is_refused_unless_no_pixel_is_missing(name):
    content = WHOLE[name]
    expected, refused = pixels(content), 0
    for length in cuts(content):
        try:
            found = pixels(content[:length])
        except Truncated as error:
            assert str(error).startswith("the file is cut short: ")
            refused += 1
        except ValueError as error:
            assert str(error) == "nothing of the picture is there, and the file is cut short"
            refused += 1
        else:
            np.testing.assert_array_equal(found, expected, f"cut to {length} of {len(content)}")
    assert refused >= 9, "at least those that lack a tenth"
    if "heif" not in name and "avif" not in name and "tiff" not in name and name not in ("webp", "bmp"):
        assert refused < len(list(cuts(content))), "the end marker alone may be missing"


@pytest.mark.parametrize("name", IN_PART)
def test_what_is_there_of_a_picture_can_be_taken(name):
    content = WHOLE[name]
    expected = pixels(content).astype(int)
    found = pixels(completed(content[: len(content) * 7 // 10])).astype(int)
    assert found.shape == expected.shape
    near = (abs(found - expected).max(-1) <= 2).mean()
    assert 0.5 <= near < 1 or "progressive" in name or "one colour" in name
    assert abs(found - expected).mean() < 50 or name == "one colour"


@pytest.mark.parametrize("name", sorted(WHOLE.keys() - set(IN_PART)))
def test_of_other_formats_no_part_can_be_taken(name):
    with pytest.raises(ValueError, match=r"^no part of the picture can be decoded, and the file is cut short$"):
        completed(WHOLE[name][: len(WHOLE[name]) * 7 // 10])


def test_headers_alone_are_no_picture():
    for content in (JPEG[:300], PNG[:40], encode(SCENE, "gif")[:20]):
        with pytest.raises(ValueError, match="nothing of the picture is there, and the file is cut short"):
            completed(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "JPEG that is not supported: .*12-bit"),
        (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc3\0\x11\x08"), "damaged image"),
    ],
    ids=["12 bits", "lossless"],
)
def test_kinds_that_cannot_be_decoded_are_named(content, reason):
    with pytest.raises(ValueError, match=reason):
        pixels(content)
