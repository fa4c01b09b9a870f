"""ICC profiles: pictures become sRGB by the profile they carry. Expected values by the profiles' own formulas."""

import io
import struct

import numpy as np
import pytest
from files import encode
from PIL import Image, ImageCms

from dtn_ray.images.decode import decode, photo

D50 = (0.9642, 1.0, 0.8249)
# Primaries in XYZ, adapted to D50.
DISPLAY_P3 = np.array([(0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)])
SRGB = np.array([(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)])


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def profile(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2."""
    text = b"test\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(8 + 3 + 67),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed(*D50),
        **tags,
    }
    place, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, body in tags.items():
        table += name + struct.pack(">II", place + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    size = place + len(data)
    device = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I", size) + bytes(4) + b"\2\x20\0\0" + device + space + connection
    header = header.ljust(36, b"\0") + b"acsp"
    header = header.ljust(68, b"\0") + fixed(*D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def of_primaries(primaries: np.ndarray, gamma: float) -> bytes:
    tags = {}
    for name, primary in zip("rgb", primaries, strict=True):
        tags[f"{name}XYZ".encode()] = b"XYZ " + bytes(4) + fixed(*primary)
        tags[f"{name}TRC".encode()] = curve(gamma)
    return profile(b"RGB ", tags)


def of_grey(gamma: float) -> bytes:
    return profile(b"GRAY", {b"kTRC": curve(gamma)})


def lab_of_inks(inks: np.ndarray) -> np.ndarray:
    """A made-up printing press: L*, a*, b* for inks N×4 in [0, 1]."""
    cyan, magenta, yellow, black = inks.T
    light = 100 * (1 - black) * (1 - 0.45 * cyan) * (1 - 0.5 * magenta) * (1 - 0.1 * yellow)
    return np.stack([light, (1 - black) * (60 * magenta - 30 * cyan), (1 - black) * (80 * yellow - 40 * cyan)], -1)


def of_inks() -> bytes:
    grid = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), -1).reshape(-1, 4)
    lab = lab_of_inks(grid)
    corners = np.stack([lab[:, 0] * 2.55, lab[:, 1] + 128, lab[:, 2] + 128], -1).round().astype(np.uint8)
    line = bytes(range(256))
    body = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return profile(b"CMYK", {b"A2B0": body + 4 * line + corners.tobytes() + 3 * line}, b"Lab ")


def srgb(xyz: np.ndarray) -> np.ndarray:
    """XYZ under D50 as sRGB in [0, 255]."""
    linear = (xyz @ np.linalg.inv(SRGB)).clip(0, 1)
    return 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def patches(colours: list[tuple[int, ...]], mode: str) -> Image.Image:
    made = Image.new(mode, (16 * len(colours), 16))
    for i, colour in enumerate(colours):
        made.paste(colour if len(colour) > 1 else colour[0], (16 * i, 0, 16 * i + 16, 16))
    return made


def found(content: bytes, count: int) -> np.ndarray:
    """The colours of patches, from the whole photo."""
    return photo(content, 100_000)[0][8, 8::16][:count].astype(float)


COLOURS = [(200, 60, 40), (40, 180, 90), (50, 70, 200), (128, 128, 128), (255, 255, 255), (0, 0, 0), (220, 190, 160)]


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("png", {}),
        ("jpeg", {"quality": 100, "subsampling": 0}),
        ("jpeg", {"quality": 100, "subsampling": 0, "progressive": True}),
        ("webp", {"lossless": True}),
        ("tiff", {}),
        ("heif", {"quality": -1, "chroma": 444, "matrix_coefficients": 0}),
        ("avif", {"quality": 100, "subsampling": "4:4:4"}),
    ],
    ids=["PNG", "JPEG", "progressive JPEG", "WebP", "TIFF", "HEIF", "AVIF"],
)
def test_display_p3_becomes_srgb_in_every_format(form, options):
    content = encode(patches(COLOURS, "RGB"), form, icc_profile=of_primaries(DISPLAY_P3, 2.2), **options)
    expected = srgb((np.array(COLOURS) / 255) ** 2.2 @ DISPLAY_P3)
    assert abs(found(content, len(COLOURS)) - expected).max() <= 4
    assert abs(expected - COLOURS).max() > 20, "or the profile would make no difference"


def test_the_square_for_the_networks_has_its_colours_converted_too():
    content = encode(Image.new("RGB", (500, 400), COLOURS[0]), "jpeg", icc_profile=of_primaries(DISPLAY_P3, 2.2))
    expected = srgb((np.array(COLOURS[0]) / 255) ** 2.2 @ DISPLAY_P3)
    assert abs(decode(content, 32, 10**6) - expected[:, None, None]).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_colours_with_alpha_or_a_palette_are_converted(mode):
    picture = patches(COLOURS, "RGB").convert(mode)
    content = encode(picture, icc_profile=of_primaries(DISPLAY_P3, 2.2))
    expected = srgb((np.array(picture.convert("RGB"))[8, 8::16] / 255) ** 2.2 @ DISPLAY_P3)
    assert abs(found(content, len(COLOURS)) - expected).max() <= 2


@pytest.mark.parametrize(("mode", "form"), [("L", "jpeg"), ("L", "png"), ("LA", "png"), ("L", "tiff")])
def test_greys_by_their_own_curve(mode, form):
    greys = [(value, 255)[: len(mode)] for value in (0, 30, 90, 128, 200, 255)]
    content = encode(patches(greys, mode), form, icc_profile=of_grey(1.0))
    linear = (np.array(greys)[:, 0] / 255)[:, None] * np.array(D50)
    assert abs(found(content, len(greys)) - srgb(linear)).max() <= 3


def test_a_grey_picture_with_a_profile_of_colours():
    content = encode(patches([(30,), (128,), (220,)], "L"), icc_profile=of_primaries(SRGB, 1.0))
    expected = srgb(np.array([[30], [128], [220]]) / 255 * np.array(D50))
    assert abs(found(content, 3) - expected).max() <= 2


@pytest.mark.parametrize("form", ["jpeg", "tiff"])
def test_inks_by_the_press_they_are_for(form):
    inks = [(0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 128, 128, 0)]
    lab = lab_of_inks(np.array(inks) / 255)
    y = (lab[:, :1] + 16) / 116
    f = np.hstack([y + lab[:, 1:2] / 500, y, y - lab[:, 2:] / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    options = {"quality": 100, "subsampling": 0} if form == "jpeg" else {}
    content = encode(patches(inks, "CMYK"), form, icc_profile=of_inks(), **options)
    expected = srgb(xyz)
    inside = ((expected > 2) & (expected < 253)).all(1) | (np.ptp(expected, axis=1) < 3)
    assert inside.sum() >= 3
    difference = abs(found(content, len(inks)) - expected)
    assert difference[inside].max() <= 6
    without = np.asarray(patches(inks, "CMYK").convert("RGB"))[8, 8::16]
    assert abs(found(content, len(inks)) - without).max() > 50, "or the profile would make no difference"


def test_inks_are_what_littlecms_makes_of_the_whole_picture():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (20, 30, 4), np.uint8), "CMYK")
    opened = ImageCms.ImageCmsProfile(io.BytesIO(of_inks()))
    expected = ImageCms.profileToProfile(picture, opened, ImageCms.createProfile("sRGB"), outputMode="RGB")
    pixels, _ = photo(encode(picture, "tiff", icc_profile=of_inks()), 1000)
    np.testing.assert_array_equal(pixels, np.asarray(expected))


@pytest.mark.parametrize(
    "broken",
    [b"junk", bytes(200), of_primaries(DISPLAY_P3, 2.2)[:150], of_grey(1.0), of_inks(), bytes(9 << 20)],
    ids=["junk", "zeros", "cut short", "of greys", "of inks", "too large"],
)
def test_a_broken_profile_or_one_for_other_pictures_counts_as_none(broken):
    picture = patches(COLOURS, "RGB")
    for form in ("png", "tiff"):
        pixels, _ = photo(encode(picture, form, icc_profile=broken), 100_000)
        np.testing.assert_array_equal(pixels, np.asarray(picture))


def test_profiles_that_are_srgb_by_another_name_change_nothing():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    srgb_by_littlecms = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels, _ = photo(encode(picture, icc_profile=srgb_by_littlecms), 10_000)
    np.testing.assert_array_equal(pixels, np.asarray(picture))
