"""The orientation of a photo, from EXIF and XMP."""

import struct

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

# By EXIF's orientation. ImageOps.exif_transpose does the same, but also rewrites the EXIF block, which can fail.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WITH_ORIENTATION = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}


def orientation(image: Image.Image) -> int:
    """The orientation, 1 to 8, from EXIF or otherwise XMP; 1 if none can be read."""
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and (found := _orientation_in(exif)):
        return found
    if not (image.info.keys() & WITH_ORIENTATION):
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow can raise anything for damaged metadata
        return 1


def may_turn(image: Image.Image) -> bool:
    """Whether an image that is not decoded yet may have to be rotated; Pillow reads some metadata after the pixels."""
    if isinstance(image, TiffImageFile):
        return image.tag_v2.get(ExifTags.Base.Orientation, 1) != 1
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and (found := _orientation_in(exif)):
        return found in TURNS
    return bool(image.info.keys() & WITH_ORIENTATION)


def _orientation_in(exif: bytes) -> int | None:
    """The orientation in a block of EXIF, or None. Pillow would give up at the first tag that it cannot read."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    if exif[:2] not in (b"II", b"MM") or len(exif) < 10:
        return None
    order = "<" if exif[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", exif, 4)
    entries = exif[start + 2 :]
    for place in range(0, min(len(entries), 12 * _number(exif[start : start + 2], order)) - 11, 12):
        tag, kind, _ = struct.unpack_from(order + "HHI", entries, place)
        if tag == ExifTags.Base.Orientation:
            value = entries[place + 8 :]
            if kind == 2:  # text
                return int(value[:1]) if value[:1].isdigit() else None
            return _number(value[: {3: 2, 4: 4, 8: 2, 9: 4}.get(kind, 1)], order)
    return None


def _number(data: bytes, order: str) -> int:
    return int.from_bytes(data, "little" if order == "<" else "big")
