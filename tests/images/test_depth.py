"""TIFFs and PNGs of other depths than eight bits: right, or refused with the reason. Expected values by hand."""

import struct
import zlib

import numpy as np
import pytest
from files import encode
from PIL import Image

from dtn_ray.images.decode import photo

HEIGHT, WIDTH = 24, 40
RAMP = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
COLOURS = np.stack([RAMP, 1 - RAMP, np.fliplr(RAMP)], -1)
DEFLATE = 8
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK, YCBCR, LAB = 0, 1, 2, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def tiff(
    samples: np.ndarray | bytes,
    photometric: int,
    *,
    order: str = "<",
    packed: bool = False,
    planes: bool = False,
    bits: int | None = None,
    channels: int = 1,
    extra: dict[int, list[int]] | None = None,
) -> bytes:
    """A TIFF written without Pillow: `samples` H×W or H×W×C, or packed bytes of `bits`; each plane is one strip."""
    kind = UNSIGNED
    if isinstance(samples, np.ndarray):
        channels = samples.shape[2] if samples.ndim == 3 else 1
        bits, kind = samples.dtype.itemsize * 8, {"u": UNSIGNED, "i": SIGNED, "f": FLOAT}[samples.dtype.kind]
        parts = [samples[..., i] for i in range(channels)] if planes else [samples]
        strips = [np.ascontiguousarray(part).astype(part.dtype.newbyteorder(order)).tobytes() for part in parts]
    else:
        strips = [samples]
    if packed:
        strips = [zlib.compress(strip) for strip in strips]
    tags: dict[int, tuple[int, list[int]]] = {
        256: (3, [WIDTH]),
        257: (3, [HEIGHT]),
        258: (3, [bits or 8] * channels),
        259: (3, [DEFLATE if packed else 1]),
        262: (3, [photometric]),
        273: (4, []),
        277: (3, [channels]),
        278: (3, [HEIGHT]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [2 if planes else 1]),
        339: (3, [kind] * channels),
        **{tag: (3, values) for tag, values in (extra or {}).items()},
    }
    place, offsets = 8, []
    for strip in strips:
        offsets.append(place)
        place += len(strip)
    tags[273] = (4, offsets)
    data, start = b"".join(strips), place + place % 2
    entries, beside = b"", b""
    behind = start + 2 + 12 * len(tags) + 4
    for tag, (form, values) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(values)}{'H' if form == 3 else 'I'}", *values)
        if len(value) > 4:
            where, beside = struct.pack(order + "I", behind + len(beside)), beside + value + bytes(len(value) % 2)
            value = where
        entries += struct.pack(order + "HHI", tag, form, len(values)) + value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    padded = (head + data).ljust(start, b"\0")
    return padded + struct.pack(order + "H", len(tags)) + entries + bytes(4) + beside


def pixels(content: bytes) -> np.ndarray:
    return photo(content, 10_000)[0].astype(float)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(255 * values[..., None], 3, -1)


def scaled(values: np.ndarray, kind: str) -> np.ndarray:
    """Values in [0, 1] as all that an integer type holds."""
    info = np.iinfo(kind)
    return (info.min + values * (int(info.max) - int(info.min))).round().clip(info.min, info.max).astype(kind)


either_order = pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
packed_or_not = pytest.mark.parametrize("packed", [False, True], ids=["plain", "deflate"])


@either_order
@packed_or_not
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "i4", "f4"])
def test_greys_of_any_type_keep_their_order_from_black_to_white(kind, packed, order):
    samples = (3 * RAMP - 1).astype("f4") if kind == "f4" else scaled(RAMP, kind)
    found = pixels(tiff(samples, BLACK_IS_ZERO, packed=packed, order=order))
    assert abs(found - grey(RAMP)).max() <= 1


@packed_or_not
def test_unsigned_32_bits_do_not_wrap(packed):
    found = pixels(tiff(scaled(RAMP, "u4"), BLACK_IS_ZERO, packed=packed))
    assert abs(found - grey(RAMP)).max() <= 1


@packed_or_not
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_greys_whose_white_is_zero_are_not_negatives(kind, packed):
    samples = RAMP.astype("f4") if kind == "f4" else scaled(RAMP, kind)
    found = pixels(tiff(samples, WHITE_IS_ZERO, packed=packed))
    assert abs(found - grey(1 - RAMP)).max() <= 1


def test_12_bits_reach_white():
    values = (RAMP * 4095).round().astype(int).ravel()
    pairs = [bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in zip(values[::2], values[1::2], strict=True)]
    assert abs(pixels(tiff(b"".join(pairs), BLACK_IS_ZERO, bits=12)) - grey(RAMP)).max() <= 1


def test_greys_without_an_agreed_white_are_scaled_by_their_greatest_value():
    counts = (1000 * RAMP).astype("i4")
    assert abs(pixels(tiff(counts, BLACK_IS_ZERO)) - grey(RAMP)).max() <= 1
    above = np.where(RAMP > 0.5, np.float32(2), np.float32(1))
    assert set(np.unique(pixels(tiff(above, BLACK_IS_ZERO))).tolist()) == {128, 255}, "0 is black, not the least value"


def test_what_is_not_a_number_is_black():
    samples = RAMP.astype("f4")
    samples[0, :3] = np.nan, np.inf, -np.inf
    found = pixels(tiff(samples, BLACK_IS_ZERO))
    assert found[0, :3, 0].tolist() == [0, 255, 0] and abs(found[1:] - grey(RAMP)[1:]).max() <= 1


@either_order
@packed_or_not
@pytest.mark.parametrize("planes", [False, True], ids=["pixels", "planes"])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_colours_of_8_and_16_bits_by_pixels_and_by_planes(kind, planes, packed, order):
    found = pixels(tiff(scaled(COLOURS, kind), RGB, planes=planes, packed=packed, order=order))
    assert abs(found - 255 * COLOURS).max() <= 1
    inks = np.dstack([scaled(COLOURS, kind), np.zeros_like(scaled(RAMP, kind))])
    found = pixels(tiff(inks, CMYK, planes=planes, packed=packed, order=order))
    assert abs(found - 255 * (1 - COLOURS)).max() <= 1


@pytest.mark.parametrize("block", [1, 2], ids=["whole", "subsampled"])
def test_luminance_and_colour_differences_without_compression(block):
    colours = COLOURS.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean((1, 3)).repeat(2, 0).repeat(2, 1)
    red, green, blue = (255 * colours[..., i] for i in range(3))
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    samples = np.stack([light, 128 + (blue - light) / 1.772, 128 + (red - light) / 1.402], -1).round().astype("u1")
    blocks = samples.reshape(HEIGHT // block, block, WIDTH // block, block, 3).transpose(0, 2, 1, 3, 4)
    data = np.concatenate([blocks[..., 0].reshape(-1, block**2), blocks[:, :, 0, 0, 1:].reshape(-1, 2)], 1).tobytes()
    found = pixels(tiff(data, YCBCR, channels=3, extra={530: [block, block]}))
    assert abs(found - 255 * colours).max() <= 2


def test_lightness_is_grey():
    samples = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    samples[..., 0] = (RAMP * 255).round()
    lightness = samples[..., 0] / 2.55
    linear = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    srgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    assert abs(pixels(tiff(samples, LAB)) - grey(srgb)).max() <= 2


def test_alpha_in_16_bits_lies_on_white():
    samples = scaled(np.dstack([COLOURS, np.full_like(RAMP, 0.5)]), "u2")
    found = pixels(tiff(samples, RGB, extra={338: [2]}))
    assert abs(found - (127.5 + 127.5 * COLOURS)).max() <= 2


@pytest.mark.parametrize(
    ("samples", "photometric", "options"),
    [
        (RAMP.astype("f2"), BLACK_IS_ZERO, {}),
        (RAMP.astype("f8"), BLACK_IS_ZERO, {}),
        (COLOURS.astype("f4"), RGB, {}),
        (scaled(COLOURS, "i2"), RGB, {}),
        (scaled(RAMP, "u2"), WHITE_IS_ZERO, {"order": ">"}),
        (scaled(RAMP, "u4"), BLACK_IS_ZERO, {"order": ">"}),
    ],
    ids=["half", "double", "float colours", "signed colours", "big-endian white is zero", "big-endian 32 bits"],
)
def test_what_cannot_be_read_rightly_is_refused(samples, photometric, options):
    with pytest.raises(ValueError, match="a kind of TIFF that is not supported: unknown pixel mode"):
        pixels(tiff(samples, photometric, **options))


def test_alpha_in_a_plane_of_its_own_beside_greys_is_refused():
    samples = np.dstack([scaled(RAMP, "u1"), np.full((HEIGHT, WIDTH), 255, "u1")])
    assert abs(pixels(tiff(samples, BLACK_IS_ZERO, extra={338: [2]})) - grey(RAMP)).max() <= 1
    with pytest.raises(ValueError, match="alpha in a plane of its own beside greys is not supported"):
        pixels(tiff(samples, BLACK_IS_ZERO, extra={338: [2]}, planes=True, packed=True))


def test_a_png_of_16_bits():
    samples = scaled(RAMP, "u2")
    assert abs(pixels(encode(Image.fromarray(samples))) - grey(RAMP)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_are_turned_upright_once(orientation):
    samples = scaled(COLOURS, "u1")
    turned = {
        1: samples,
        2: samples[:, ::-1],
        3: samples[::-1, ::-1],
        4: samples[::-1],
        5: samples.transpose(1, 0, 2),
        6: np.rot90(samples, -1),
        7: np.rot90(samples, 2).transpose(1, 0, 2),
        8: np.rot90(samples),
    }[orientation]
    np.testing.assert_array_equal(pixels(tiff(samples, RGB, extra={274: [orientation]})), turned)
