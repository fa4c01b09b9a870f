"""Damaged image files, reduced to the parts that make up the picture, so that Pillow reads what viewers show.

Pillow refuses a file for metadata that no pixel depends on: a text chunk's checksum, a truncated colour profile, a
missing end marker. `versions` writes such a file again without its metadata. It also distinguishes a file that lacks
part of the picture, for which it raises `Truncated`, from one that lacks only data after the picture.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Metadata = dict[str, bytes]  # as in Pillow's Image.info: exif, icc_profile

LARGEST_PROFILE = 4 << 20  # bytes; the largest profiles, of printing presses, have about three million


LARGEST_COMPLETED = 128 << 20  # bytes of a truncated file after completion

CUT_SHORT = "the file is cut short"
IN_PART = f"{CUT_SHORT}; what is missing is blank"  # of an image that --truncated accept took
NOTHING = f"nothing of the picture is there, and {CUT_SHORT}"


class Truncated(ValueError):
    """The file is cut short, and a part of the picture is missing."""

    def __init__(self, what: str = "a part of the picture is missing") -> None:
        super().__init__(f"{CUT_SHORT}: {what}")


def versions(content: bytes, digest: Callable[[bytes], bytes]) -> Iterator[tuple[bytes, Metadata]]:
    """Yields files with the same picture but without metadata, mildest change first, each with the removed metadata.

    `digest` decodes such a file at the wanted size and returns a digest of its pixels. Raises Truncated if the picture
    is not complete. Yields nothing if the file is damaged in an unknown way.
    """
    if content.startswith(b"\xff\xd8"):
        yield _jpeg(content, digest)
    elif content.startswith(PNG):
        yield from _png(content)
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        yield _webp(content)
    elif content[:4] in TIFF:
        yield from _tiff(content)
    elif content[:3] == b"GIF":
        yield from _gif(content)
    elif content[:2] == b"BM":
        _check_bmp(content)
    elif content[4:8] == b"ftyp":
        _check_boxes(content)


def completed(content: bytes) -> bytes:
    """Completes a truncated file with a blank area: JPEG (grey), PNG, GIF and BMP (mostly black).

    Raises ValueError if no part of the picture is present, if the format does not allow parts to be decoded, or if the
    result would have more than LARGEST_COMPLETED bytes.
    """
    if content.startswith(b"\xff\xd8"):
        found = _segments(content)
        if not found.scans:
            raise ValueError(NOTHING)
        return content[: found.end].rstrip(b"\xff") + EOI
    if content.startswith(PNG):
        return _completed_png(content)
    if content[:3] == b"GIF":
        return _completed_gif(content)
    if content[:2] == b"BM" and len(content) > 54:
        return content.ljust(_completed_size(_size_of_bmp(content)), b"\0")
    raise ValueError(f"no part of the picture can be decoded, and {CUT_SHORT}")


# JPEG

EOI = b"\xff\xd9"
MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # neither a stuffed byte nor a restart marker of the scan's data
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
STRUCTURE = FRAMES | {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD}

# Possible continuations of a scan's data. If the picture is the same with each of them, no data are missing; otherwise
# the decoder would read the missing data from them. They contain restart markers, because a decoder can wait for one.
# It skips data before a marker that is one or two too early, so they begin with different markers.
_NOISE = hashlib.shake_128(b"any bits").digest(5 * 64).replace(b"\xff", b"\xa5")
_ENDS = [b"\x7f" * 64, *(_NOISE[i : i + 64] for i in range(0, len(_NOISE), 64))]
ENDINGS = [EOI]
for _first, _end in enumerate(_ENDS):
    ENDINGS.append(_end + b"".join(b"\xff%c" % (0xD0 + (4 * _first + i) % 8) + _end for i in range(16)) + EOI)


@dataclass
class _Jpeg:
    """The parts of a JPEG."""

    structure: list[memoryview] = field(default_factory=list)
    """Its segments without metadata, each with the scan data after it."""
    whole: bool = False
    """Whether it has an end marker."""
    end: int = 0
    """End of the last complete segment and the data after it."""
    scans: int = 0
    left: dict[int, list[int]] = field(default_factory=dict)
    """For each component, how many low bits of each coefficient no scan has provided yet."""
    exif: bytes = b""
    profile: dict[int, bytes] = field(default_factory=dict)

    def metadata(self) -> Metadata:
        icc = b"".join(self.profile[i] for i in sorted(self.profile))
        return ({"exif": self.exif} if self.exif else {}) | ({"icc_profile": icc} if icc else {})


def _segments(content: bytes) -> _Jpeg:
    found, match, view = _Jpeg(end=len(content)), MARKER.search(content, 2), memoryview(content)
    progressive = False
    while match:
        marker, start, place = match[1][0], match.start(), match.end()
        if marker == 0xD9 and found.scans:
            found.whole, found.end = True, place
            break
        if marker in (0x01, 0xD8, 0xD9):
            match = MARKER.search(content, place)
            continue
        length = max(2, int.from_bytes(content[place : place + 2]))
        if place + length > len(content):  # cut short within this segment
            found.end = start
            break
        body = content[place + 2 : place + length]
        match = MARKER.search(content, place + length)
        following = match.start() if match else len(content)
        if marker in FRAMES:
            progressive = marker in PROGRESSIVE
            found.left = {body[i]: [99] * 64 for i in range(6, len(body), 3)}
        elif marker == 0xDA:
            found.scans += 1
            _see(found.left, body, progressive)
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            found.exif = found.exif or body
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            found.profile[body[12]] = body[14:]
        # These two segments define the colours, if they are complete.
        adobe = marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
        jfif = marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14
        if marker in STRUCTURE or adobe or jfif:
            found.structure.append(view[start:following])
    return found


def _see(left: dict[int, list[int]], scan: bytes, progressive: bool) -> None:
    """Records which coefficients a scan provides, from the scan's header."""
    count = scan[0] if scan else 0
    first, last, bits = 0, 63, 0
    if progressive and len(scan) >= 2 * count + 4:
        first, last, bits = scan[2 * count + 1], scan[2 * count + 2], scan[2 * count + 3] & 15
    for component in scan[1 : 2 * count + 1 : 2]:
        for i in range(first, min(last, 63) + 1):
            left.setdefault(component, [99] * 64)[i] = bits


def _jpeg(content: bytes, digest: Callable[[bytes], bytes]) -> tuple[bytes, Metadata]:
    found = _segments(content)
    plain = b"".join([b"\xff\xd8", *found.structure, EOI if found.whole else b""])
    if found.whole:
        return plain, found.metadata()
    if not found.scans:
        raise ValueError(NOTHING)
    if any(any(bits) for bits in found.left.values()):
        raise Truncated
    plain = _without_padding(plain)
    pictures = (digest(plain + ending) for ending in ENDINGS)
    first = next(pictures)
    if any(picture != first for picture in pictures):
        raise Truncated
    return plain + EOI, found.metadata()


def _without_padding(data: bytes) -> bytes:
    """Removes padding zeros, which are not scan data, and half a marker at the end."""
    stripped = data.rstrip(b"\0")
    if len(data) - len(stripped) >= 16:
        data = stripped + b"\0" if stripped.endswith(b"\xff") else stripped
    return data.rstrip(b"\xff")


# PNG

PNG = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """The chunks of a PNG: kind, body, and whether the checksum is right. The last may be cut short."""
    place, view = len(PNG), memoryview(content)
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        body = view[place + 8 : place + 8 + length]
        if not kind.isalpha() or (len(body) < length and kind != b"IDAT"):  # a wrong length: on with the pixels
            place = content.find(b"IDAT", place + 8) - 4
            if place < 0:
                return
            continue
        following = place + 12 + length
        crc = int.from_bytes(content[following - 4 : following])
        yield kind, body, crc == zlib.crc32(body, zlib.crc32(kind))
        if kind == b"IEND":
            return
        place = following


@dataclass
class _Png:
    header: bytes = b""
    before: list[bytes] = field(default_factory=list)
    """The chunks before the pixels whose checksum is right."""
    needed: list[bytes] = field(default_factory=list)
    """Those of these chunks that are needed to decode the pixels."""
    data: bytes = b""
    """The compressed pixels."""
    metadata: Metadata = field(default_factory=dict)
    whole: bool = False
    """Whether it has an end marker."""


def _read_png(content: bytes) -> _Png:
    found, data = _Png(), list[memoryview]()
    for kind, view, right in _chunks(content):
        if kind == b"IDAT":
            data.append(view)
            continue
        body = bytes(view)
        if kind == b"IEND":
            found.whole = True
        elif kind in (b"IHDR", b"PLTE") and not right:
            raise ValueError(f"damaged image: wrong checksum of the {kind.decode()} chunk")
        elif right and not data:
            found.before.append(_chunk(kind, body))
            if kind == b"IHDR":
                found.header = body
            if kind in (b"IHDR", b"PLTE", b"tRNS"):
                found.needed.append(found.before[-1])
            elif kind == b"eXIf":
                found.metadata["exif"] = b"Exif\0\0" + body
            elif kind == b"iCCP":
                found.metadata |= _profile(body)
    found.data = b"".join(data)
    if len(found.header) < 13:
        raise ValueError("damaged image: a PNG without its header")
    return found


def _profile(body: bytes) -> Metadata:
    _, _, packed = body.partition(b"\0")
    try:
        return {"icc_profile": zlib.decompressobj().decompress(packed[1:], LARGEST_PROFILE)}
    except zlib.error:
        return {}


def _png(content: bytes) -> Iterator[tuple[bytes, Metadata]]:
    found = _read_png(content)
    yield _file(found.before, found.data), found.metadata
    yield _file(found.needed, found.data), found.metadata
    data, missing, broken = _packed_again(found)
    if missing:
        if found.whole or broken:
            raise ValueError("damaged image: the pixels cannot be unpacked")
        raise Truncated
    yield _file(found.needed, data), found.metadata


def _completed_png(content: bytes) -> bytes:
    found = _read_png(content)
    data, missing, _ = _packed_again(found)
    if missing == _unpacked_size(found.header):
        raise ValueError(NOTHING)
    return _file(found.before, data)


def _file(chunks: list[bytes], data: bytes) -> bytes:
    """A PNG from the chunks before its pixels and the compressed pixels."""
    crc = struct.pack(">I", zlib.crc32(data, zlib.crc32(b"IDAT")))
    return b"".join([PNG, *chunks, struct.pack(">I4s", len(data), b"IDAT"), data, crc, _chunk(b"IEND", b"")])


def _unpacked_size(header: bytes) -> int:
    """Bytes of a PNG's uncompressed pixels; each row begins with the number of its filter."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    bits = depth * CHANNELS.get(colour, 0)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - left) // x), -(-(height - top) // y)) for left, top, x, y in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def _packed_again(found: _Png) -> tuple[bytes, int, bool]:
    """A PNG's pixels compressed again, with zeros for missing ones; the number of missing bytes; and whether data are
    broken.

    Ignores zlib's checksum, which follows the pixels. Holds only compressed data in memory.
    """
    unpacker, packer = zlib.decompressobj(-15), zlib.compressobj(1)
    left, packed, broken = _unpacked_size(found.header), list[bytes](), False
    for start in range(2, len(found.data), 4096):
        data = found.data[start : start + 4096]
        while data and left:
            try:
                pixels = unpacker.decompress(data, min(left, 1 << 20))
            except zlib.error:
                broken = True
                break
            packed.append(packer.compress(pixels))
            left -= len(pixels)
            data = unpacker.unconsumed_tail
        if broken or not left:
            break
    for start in range(0, left, 1 << 20):
        packed.append(packer.compress(bytes(min(1 << 20, left - start))))
    return b"".join(packed) + packer.flush(), left, broken


# WebP


def _webp(content: bytes) -> tuple[bytes, Metadata]:
    kept, metadata, place, view = list[bytes | memoryview](), Metadata(), 12, memoryview(content)
    pictures = 0
    while place + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, place)
        body = view[place + 8 : place + 8 + length]
        if len(body) < length:
            if kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF"):
                raise Truncated
            break
        if kind == b"VP8X":
            body = memoryview(bytes([body[0] & ~0x2C, *body[1:]]))  # without the flags for a profile, EXIF and XMP
        if kind in (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L"):
            kept += [kind + struct.pack("<I", length), body, bytes(length % 2)]
            pictures += kind in (b"VP8 ", b"VP8L", b"ANMF")
        elif kind in (b"EXIF", b"ICCP"):
            metadata.setdefault("exif" if kind == b"EXIF" else "icc_profile", bytes(body))
        place += 8 + length + length % 2
    if not pictures:
        raise ValueError(NOTHING)
    return b"".join([b"RIFF", struct.pack("<I", 4 + sum(map(len, kept))), b"WEBP", *kept]), metadata


# TIFF

TIFF = {b"II*\0": "<", b"MM\0*": ">"}
# Those that the pixels, their colours and their orientation depend on.
TIFF_TAGS = {*range(254, 263), 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 318, 319, 320, 321, 322, 323, 324, 325}
TIFF_TAGS |= {332, 333, 334, 336, 338, 339, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532, 34675}
BESIDE = {274, 34675}  # orientation and profile
SIZES = {3: 2, 4: 4}  # bytes of its types that numbers and offsets have


def _tiff(content: bytes) -> Iterator[tuple[bytes, Metadata]]:
    order = TIFF[content[:4]]
    (start,) = struct.unpack_from(order + "I", content, 4) if len(content) >= 8 else (len(content),)
    if start + 2 > len(content):
        raise Truncated("its directory is missing")
    (count,) = struct.unpack_from(order + "H", content, start)
    entries = [content[start + 2 + 12 * i :][:12] for i in range(count)]
    if len(entries[-1] if entries else b"") < 12:
        raise Truncated("its directory is missing")
    _check_strips(content, entries, order)
    kept = [entry for entry in entries if struct.unpack(order + "H", entry[:2])[0] in TIFF_TAGS]
    for dropped in ((), BESIDE):  # they may be what is broken
        tags = [entry for entry in kept if struct.unpack(order + "H", entry[:2])[0] not in dropped]
        directory = struct.pack(order + "H", len(tags)) + b"".join(tags) + bytes(4)
        place = len(content) + len(content) % 2
        head = content[:4] + struct.pack(order + "I", place)
        yield b"".join([head, memoryview(content)[8:], bytes(len(content) % 2), directory]), {}


def _check_strips(content: bytes, entries: list[bytes], order: str) -> None:
    def values(tag: int) -> tuple[int, ...]:
        for entry in entries:
            found, kind, count = struct.unpack(order + "HHI", entry[:8])
            if found == tag and kind in (3, 4):
                size = count * SIZES[kind]
                where = struct.unpack(order + "I", entry[8:])[0] if size > 4 else None
                data = entry[8 : 8 + size] if where is None else content[where : where + size]
                if len(data) < size:
                    raise Truncated
                return struct.unpack(f"{order}{count}{'H' if kind == 3 else 'I'}", data)
        return ()

    for tag in TIFF_TAGS - BESIDE:
        values(tag)

    for offsets, lengths in ((273, 279), (324, 325)):
        for offset, length in zip(values(offsets), values(lengths), strict=False):
            if offset + length > len(content):
                raise Truncated


# GIF, BMP, HEIF and AVIF


def _gif_parts(content: bytes) -> tuple[bytes, bytes, int]:
    """A GIF up to the end of its first picture's data, what follows (empty if cut short before), and its pixels.

    Raises Truncated if the picture does not begin.
    """
    if len(content) < 13:
        raise ValueError(NOTHING)
    place = 13 + (3 << (content[10] & 7) + 1 if content[10] & 0x80 else 0)
    while content[place : place + 1] == b"!":  # extensions
        place += 2
        while place < len(content) and content[place]:
            place += 1 + content[place]
        place += 1
    if content[place : place + 1] != b"," or place + 11 > len(content):
        raise ValueError(NOTHING)
    width, height, flags = struct.unpack_from("<HHB", content, place + 5)
    place += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    last = place
    while place < len(content) and content[place]:
        last, place = place, place + 1 + content[place]
    if place <= len(content):
        return content[:place], content[place:], width * height
    rest = content[last + 1 :]
    return content[:last] + (bytes([len(rest)]) + rest if rest else b""), b"", width * height


def _gif(content: bytes) -> Iterator[tuple[bytes, Metadata]]:
    data, following, _ = _gif_parts(content)
    yield data + b"\0;", {}  # whole, if all pixels are among the data
    if not following:
        raise Truncated


def _completed_gif(content: bytes) -> bytes:
    data, _, pixels = _gif_parts(content)
    # Each code of LZW has twelve bits or less, and code 0 is a pixel of the first colour.
    blocks = _completed_size(pixels * 12 // 8) // 255 + 1
    return b"".join([data, (b"\xff" + bytes(255)) * blocks, b"\0;"])


def _completed_size(size: int) -> int:
    if size > LARGEST_COMPLETED:
        raise ValueError(f"{CUT_SHORT}, and the whole would have {size >> 20} MiB, too many to add what is missing")
    return size


def _size_of_bmp(content: bytes) -> int:
    """Bytes that a BMP without compression has. Only a header's 54 bytes are looked at."""
    (offset,) = struct.unpack_from("<I", content, 10)
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    return offset + (abs(width) * bits + 31) // 32 * 4 * abs(height) if compression in (0, 3, 6) else 0


def _check_bmp(content: bytes) -> None:
    if len(content) < 54 or len(content) < _size_of_bmp(content):
        raise Truncated


def _check_boxes(content: bytes) -> None:
    """Raises Truncated if a box of an ISO base media file (HEIF, AVIF) ends beyond the end of the file."""
    place = 0
    while place + 8 <= len(content):
        length = int.from_bytes(content[place : place + 4])
        if length == 1:
            length = int.from_bytes(content[place + 8 : place + 16])
        if length == 0:  # to the end of the file
            return
        place += max(8, length)
    if place > len(content):
        raise Truncated
