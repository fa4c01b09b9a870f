"""The memory and time that decoding an image takes, computed from its header before a decoder allocates.

A file of a few bytes can claim a canvas, a tile or a number of scans that takes gigabytes or minutes. `check` reads the
headers that Pillow's plugins act upon when they open a file. `peak` gives the bytes of the most expensive moment
between an open image and its pixels as RGB. Both read only headers, so their cost is negligible beside decoding.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, PngImagePlugin

# Characters of text chunks of one PNG, which Pillow keeps: XMP mostly. With more, they are left out (repair.py).
PngImagePlugin.MAX_TEXT_MEMORY = 2 << 20

SEGMENTS = 10_000  # of a JPEG before its pixels; Pillow keeps each of them, and no photo has more
JUNK = 1 << 20  # bytes between segments, which Pillow reads one by one
CHUNKS = 200_000  # of a PNG: libpng writes 8 KB in each
PARTS = 200_000  # strips or tiles of a TIFF, each with Python objects of its own
UNPACKED = 2 << 30  # bytes of all strips or tiles of a TIFF: tiles can be far larger than the image
RUNS = 100_000_000  # pixels and bytes of a BMP with run lengths, which Pillow unpacks in Python: a minute
SCANS = 64  # of any JPEG; encoders write ten to twenty
SCANNED = 3_000_000_000  # pixels × scans × components of a JPEG: a minute, at 20 ns each

Size = tuple[int, int]


class TooLarge(ValueError):
    """Decoding an image would take more memory or time than allowed; it is not tried in another way."""


class TooManyPixels(TooLarge):
    """An image has more pixels to decode than the limit."""


@dataclass(frozen=True)
class Header:
    """The contents of a file's header that this module needs."""

    size: Size | None = None
    """Width and height of the picture; None: Pillow reads them."""
    working: int = 0
    """Bytes that decoding takes in addition to the picture itself."""
    at_open: int = 0
    """Bytes to reserve for the whole decoding before the file is opened; 0: opening the file takes no memory."""
    reducible: bool = False
    """Whether its decoder can produce a smaller picture with less memory: a baseline JPEG in one scan."""
    turnable: bool = False
    """For a PNG: whether metadata after the pixels may rotate the picture."""
    slow: str = ""
    """Why decoding would take minutes, so that it is not tried; empty if it would not."""


def check(content: bytes) -> Header:
    """The contents of a file's header, before Pillow opens it. Raises ValueError for a file that no encoder writes."""
    if content.startswith(b"\xff\xd8"):
        return _jpeg(content)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _webp(content)
    if content[:4] in TIFF:
        return _tiff(content)
    if content.startswith(b"GIF8"):
        return _gif(content)
    if content.startswith(b"BM"):
        return _bmp(content)
    if content[4:8] == b"ftyp":
        return _boxed(content)
    return Header()


def held(mode: str, size: Size) -> int:
    """Bytes that an image takes in Pillow's memory: each row is padded to whole words, and has a pointer."""
    each = {"1": 1, "L": 1, "P": 1}.get(mode, 2 if mode.startswith("I;16") else 4)
    width, height = size
    return height * ((width * each + 3) // 4 * 4 + 8)


def peak(image: Image.Image, size: Size, header: Header, content: bytes, turned: bool) -> int:
    """The peak memory, in bytes, from an open image to its pixels at `size` as an RGB array.

    `turned`: whether its metadata rotate or flip it.
    """
    mode, pixels = image.mode, size[0] * size[1]
    alpha = "transparency" in image.info or mode in ("RGBA", "LA", "La", "PA")
    own, rgb = held(mode, size), held("RGB", size)
    loading = own + header.working
    if image.format == "AVIF":  # the planes, the pixels as bytes twice, and what the allocator has not given back
        loading = header.working + 2 * (len(image.getbands()) + 1) * pixels + len(content)
    elif image.format == "HEIF":  # as measured with libheif 1.23
        loading = (15 if image.info.get("bit_depth", 8) > 8 else 9) * pixels + alpha * 2 * pixels + len(content)
    # Then at most two of these exist at a time: the picture as decoded, rotated, as RGBA, on white, as RGB, as array.
    plain = mode in ("RGB", "L") and not turned and not alpha
    grey = mode == "L" and "icc_profile" in image.info  # its three channels, and the picture of them
    following = max(own, rgb) + (3 * pixels if plain and not grey else rgb)
    return max(loading, following)


# JPEG

FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
BARE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers without a length


def _jpeg(content: bytes) -> Header:
    place, junk, exif, frame, progressive = 2, 0, 0, b"", False
    for _ in range(SEGMENTS):
        start = content.find(b"\xff", place)
        while content[start + 1 : start + 2] == b"\xff" and junk <= JUNK:
            start, junk = start + 1, junk + 1
        junk += start - place
        if start < 0 or start + 4 > len(content):
            return Header()
        if junk > JUNK:
            raise ValueError("damaged image: a megabyte between the segments of a JPEG")
        marker, place = content[start + 1], start + 2
        if marker in BARE or marker == 0:
            continue
        length = int.from_bytes(content[place : place + 2])
        if marker in FRAMES:
            frame, progressive = content[place + 2 : place + length], marker in PROGRESSIVE
        elif marker == 0xE1 and content.startswith(b"Exif\0\0", place + 2):
            exif += 1
            if exif > 100:  # each is joined to those before
                raise ValueError("damaged image: more than 100 segments of EXIF")
        elif marker == 0xDA:
            return _scans(content, place, frame, progressive)
        place += max(2, length)
    raise ValueError(f"damaged image: more than {SEGMENTS} segments before the pixels of a JPEG")


def _scans(content: bytes, place: int, frame: bytes, progressive: bool) -> Header:
    """The header of a JPEG whose first scan begins at `place`."""
    if len(frame) < 6 or place + 3 > len(content):
        return Header()
    height, width, count = struct.unpack_from(">HHB", frame, 1)
    if not progressive and content[place + 2] >= count:
        return Header((width, height), reducible=True)
    factors = [(frame[i] >> 4 or 1, frame[i] & 15 or 1) for i in range(7, min(len(frame), 6 + 3 * count), 3)]
    across, down = (max((each[axis] for each in factors), default=1) for axis in (0, 1))
    columns, rows = -(-width // (8 * across)), -(-height // (8 * down))
    blocks = columns * rows * sum(x * y for x, y in factors)
    scans = content.count(b"\xff\xda", place - 2)
    many = scans > SCANS or scans * blocks * 64 > SCANNED
    slow = f"a JPEG of {width}×{height} pixels in {scans} scans would take minutes to decode" if many else ""
    return Header((width, height), 128 * blocks, slow=slow)  # its coefficients, two bytes each


# PNG


def _png(content: bytes) -> Header:
    place, after, turnable = 8, False, False
    for _ in range(CHUNKS):
        kind = content[place + 4 : place + 8]
        if len(kind) < 4 or kind == b"IEND":
            break
        after |= kind == b"IDAT"
        turnable |= after and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
        place += 12 + int.from_bytes(content[place : place + 4])
    else:
        raise ValueError(f"damaged image: more than {CHUNKS} chunks in a PNG")
    return Header(struct.unpack_from(">II", content, 16) if len(content) >= 24 else None, turnable=turnable)


# WebP


def _webp(content: bytes) -> Header:
    kind = content[12:16]
    if kind == b"VP8X":
        size = int.from_bytes(content[24:27], "little") + 1, int.from_bytes(content[27:30], "little") + 1
    elif kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        size = int.from_bytes(content[26:28], "little") & 0x3FFF, int.from_bytes(content[28:30], "little") & 0x3FFF
    # Two canvases, and the frame's bytes; Pillow and the decoder hold the file, too.
    return Header(size, at_open=12 * size[0] * size[1] + 3 * len(content))


# GIF


def _gif(content: bytes) -> Header:
    """A GIF's first frame may be larger than its screen; Pillow allocates it when it opens the file."""
    if len(content) < 13:
        return Header()
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while content[place : place + 1] not in (b",", b";", b""):
        if content[place] == 0x21:
            place += 2
            while place < len(content) and content[place]:
                place += 1 + content[place]
        place += 1
    if place + 9 <= len(content) and content[place] == 0x2C:
        left, top, across, down = struct.unpack_from("<HHHH", content, place + 1)
        width, height = max(width, left + across), max(height, top + down)
    # The background that the frame leaves behind, the picture, and the picture with and without alpha.
    return Header((width, height), at_open=2 * held("P", (width, height)) + 2 * held("RGB", (width, height)))


# BMP


def _bmp(content: bytes) -> Header:
    if len(content) < 34:
        return Header()
    old = content[14] == 12  # the header of OS/2, with shorter numbers
    width, height = struct.unpack_from("<HH" if old else "<ii", content, 18)
    pixels = abs(width * height)
    if old or content[30] not in (1, 2):
        return Header((abs(width), abs(height)))
    slow = f"a BMP of {width}×{abs(height)} pixels with run lengths would take minutes to decode"
    size = (abs(width), abs(height))
    return Header(size, working=2 * pixels, slow=slow if pixels + len(content) > RUNS else "")


# TIFF

TIFF = {b"II*\0": ("<", 4), b"MM\0*": (">", 4), b"II+\0": ("<", 8), b"MM\0+": (">", 8)}
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIPS, SAMPLES, ROWS = 256, 257, 258, 259, 262, 273, 277, 278
PLANAR, TILE_WIDTH, TILE_HEIGHT, TILES = 284, 322, 323, 324
NUMBERS = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, ROWS, PLANAR, TILE_WIDTH, TILE_HEIGHT}
# Additional memory of libtiff for a strip or tile, in bytes per pixel, by compression.
BESIDE = {6: 4, 34676: 4, 34677: 4, 50001: 8}


def _tiff(content: bytes) -> Header:
    counts, tags = dict[int, int](), dict[int, int]()
    for tag, count, value in _entries(content):
        counts[tag] = max(counts.get(tag, 0), count)
        if tag in NUMBERS:
            tags[tag] = max(tags.get(tag, 0), value)  # if a tag occurs twice, readers disagree on which one counts
    if max(counts.get(STRIPS, 0), counts.get(TILES, 0)) > PARTS:
        raise ValueError(f"damaged image: more than {PARTS} strips or tiles in a TIFF")
    width, height = tags.get(WIDTH, 0), tags.get(HEIGHT, 0)
    samples = tags.get(SAMPLES, 1) or 1
    across, down = tags.get(TILE_WIDTH) or width, tags.get(TILE_HEIGHT) or min(tags.get(ROWS) or height, height)
    layers = samples if tags.get(PLANAR) == 2 else 1
    part = down * -(-across * tags.get(BITS, 1) * (samples // layers) // 8)
    parts = -(-width // (across or 1)) * -(-height // (down or 1)) * layers
    if parts > PARTS:
        raise ValueError(f"damaged image: {parts} strips or tiles in a TIFF")
    slow = f"the tiles of a TIFF of {width}×{height} pixels would take minutes to decode"
    rgba = 4 if tags.get(PHOTOMETRIC) == 6 else 0
    beside = (rgba + BESIDE.get(tags.get(COMPRESSION, 1), 0)) * across * down
    size = (width, height) if width and height else None
    return Header(size, part + beside, slow=slow if parts * part > max(UNPACKED, part) else "")


def _entries(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The entries of a TIFF's first directory: tag, count, and the largest of its first values.

    Raises ValueError if the entries claim more data than the file has.
    """
    order, word = TIFF[content[:4]]
    entry = struct.Struct(order + ("HHI4s" if word == 4 else "HHQ8s"))
    (start,) = struct.unpack_from(order + ("I" if word == 4 else "Q"), content.ljust(16, b"\0"), word)
    (number,) = struct.unpack(order + ("H" if word == 4 else "Q"), content[start:][: 2 if word == 4 else 8] or bytes(2))
    total, place = 0, start + (2 if word == 4 else 8)
    for _ in range(min(number, (len(content) - place) // entry.size)):
        tag, kind, count, raw = entry.unpack_from(content, place)
        place += entry.size
        size = count * SIZES.get(kind, 0)
        if size > word:
            total += size
            where = int.from_bytes(raw, "little" if order == "<" else "big")
            raw = content[where : where + min(size, 64)]
        if total > len(content):
            raise ValueError("damaged image: the directory of a TIFF lists more data than the file has")
        yield tag, count, _greatest(raw, kind, count, order)


def _greatest(raw: bytes, kind: int, count: int, order: str) -> int:
    """The largest of a tag's values that `raw` holds; 0 if they are not whole numbers."""
    size = SIZES.get(kind, 0)
    if kind not in (1, 3, 4, 6, 8, 9, 16, 17):
        return 0
    values = (raw[i : i + size] for i in range(0, min(len(raw), size * count), size))
    return max((int.from_bytes(each, "little" if order == "<" else "big") for each in values), default=0)


# AVIF; and HEIF, for which libheif itself checks that the coded picture is not larger than the declared one

AV1 = b"av01"
CODED = {0: 4, 1: 8, 2: 8}  # bytes of a coded pixel, by AV1's profile: three planes of at most 16 bits, and dav1d's own
Part = tuple[int, int]  # of a file: from, to


def _boxed(content: bytes) -> Header:
    top = dict(_boxes(content, (0, len(content))))
    data = list[bytes]()
    grid = False
    if meta := top.get(b"meta"):
        inside = dict(_boxes(content, (meta[0] + 4, meta[1])))
        kinds = _item_kinds(content, inside.get(b"iinf", (0, 0)))
        if b"iovl" in kinds.values():
            raise ValueError("an image that is put together from several is not supported")
        grid = b"grid" in kinds.values()
        wanted = {item for item, kind in kinds.items() if kind == AV1}
        if wanted:
            data += _item_data(content, inside.get(b"iloc", (0, 0)), inside.get(b"idat", (0, 0)), wanted)
    if moov := top.get(b"moov"):
        data += _first_samples(content, moov)
    planes = sum(map(_coded, data))
    return Header(working=2 * planes if grid else planes)


def _boxes(content: bytes, part: Part) -> Iterator[tuple[bytes, Part]]:
    """The boxes in a part of the file: their kinds, and the positions of their bodies."""
    place, end = part
    while place + 8 <= end:
        length, kind, head = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8], 8
        if length == 1:
            length, head = int.from_bytes(content[place + 8 : place + 16]), 16
        following = min(end, place + length) if length else end
        yield kind, (place + head, following)
        place = max(following, place + 8)


def _number(content: bytes, place: int, size: int) -> tuple[int, int]:
    """A number of `size` bytes, and the position after it."""
    if place + size > len(content):
        raise ValueError("damaged image: a box ends behind the file")
    return int.from_bytes(content[place : place + size]), place + size


def _item_kinds(content: bytes, iinf: Part) -> dict[int, bytes]:
    start, end = iinf
    kinds = dict[int, bytes]()
    head = 6 if content[start : start + 1] == b"\0" else 8
    for kind, (place, _) in _boxes(content, (start + head, end)):
        if kind == b"infe":
            size = 2 if content[place : place + 1] == b"\2" else 4
            item, place = _number(content, place + 4, size)
            kinds[item] = content[place + 2 : place + 6]
    return kinds


def _item_data(content: bytes, iloc: Part, idat: Part, wanted: set[int]) -> list[bytes]:
    """The data of some items. Raises ValueError if they claim more data than the file has."""
    place, end = iloc
    if place >= end:
        return []
    version = content[place]
    sizes, place = _number(content, place + 4, 2)
    of_offset, of_length, of_base, of_index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    count, place = _number(content, place, 2 if version < 2 else 4)
    found, total = list[bytes](), 0
    for _ in range(count):
        item, place = _number(content, place, 2 if version < 2 else 4)
        method = 0
        if version:
            method, place = _number(content, place, 2)
        base, place = _number(content, place + 2, of_base)
        extents, place = _number(content, place, 2)
        parts = list[bytes]()
        for _ in range(extents):
            if version:
                place += of_index
            offset, place = _number(content, place, of_offset)
            length, place = _number(content, place, of_length)
            if item not in wanted:
                continue
            start = base + offset + (idat[0] if method & 15 == 1 else 0)
            part = content[start : start + length if length else None]
            total += len(part)
            if total > 2 * len(content):
                raise ValueError("damaged image: its items have more data than the file")
            parts.append(part)
        found.append(b"".join(parts))
    return found


def _first_samples(content: bytes, moov: Part) -> list[bytes]:
    """For each AV1 track of an image sequence, the data from its first frame on."""
    found = list[bytes]()
    for kind, part in _boxes(content, moov):
        if kind != b"trak":
            continue
        for name in (b"mdia", b"minf", b"stbl"):
            part = dict(_boxes(content, part)).get(name, (0, 0))
        tables = dict(_boxes(content, part))
        for name, size in ((b"stco", 4), (b"co64", 8)):
            if name in tables and AV1 in content[slice(*tables.get(b"stsd", (0, 0)))]:
                offset, _ = _number(content, tables[name][0] + 8, size)
                found.append(content[offset : offset + (1 << 20)])
    return found


def _coded(data: bytes) -> int:
    """Bytes of the planes of decoded AV1 data: the largest that its sequence headers allow."""
    place, most = 0, 0
    while place < len(data):
        head = data[place]
        place += 2 if head & 4 else 1
        length = 0 if head & 2 else len(data) - place
        for i in range(8 if head & 2 else 0):
            byte, place = _number(data, place, 1)
            length |= (byte & 127) << 7 * i
            if not byte & 128:
                break
        if head >> 3 & 15 == 1:
            most = max(most, _sequence(_Bits(data[place : place + min(length, 1024)])))
        place += length
    return most


class _Bits:
    """Reads bits of some bytes, one after another; zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data), 8 * len(data)

    def take(self, count: int) -> int:
        self.left -= count
        taken = self.value >> self.left if self.left >= 0 else 0
        return taken & (1 << count) - 1


def _sequence(bits: _Bits) -> int:
    """Bytes of the planes of a frame, by AV1's sequence header (Sec. 5.5 of its specification)."""
    profile, _, reduced = bits.take(3), bits.take(1), bits.take(1)
    if reduced:
        bits.take(5)
    else:
        delay = 0
        if bits.take(1):  # timing
            bits.take(64)
            if bits.take(1):
                zeros = 0
                while bits.left > 0 and not bits.take(1):
                    zeros += 1
                bits.take(zeros)
            if bits.take(1):  # decoder model
                delay = bits.take(5) + 1
                bits.take(42)
        display = bits.take(1)
        for _ in range(bits.take(5) + 1):  # operating points
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if delay and bits.take(1):
                bits.take(2 * delay + 1)
            if display and bits.take(1):
                bits.take(4)
    of_width, of_height = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(of_width) + 1, bits.take(of_height) + 1
    if not reduced:  # a frame may declare another size, in the same number of bits
        width, height = 1 << of_width, 1 << of_height
    return width * height * CODED.get(profile, 8)
