"""Images of any kind from bytes, and pixels back to bytes."""

import hashlib
import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from pillow_heif import register_heif_opener

from dtn_ray import depth, repair
from dtn_ray.colour import to_rgb
from dtn_ray.repair import Truncated as Truncated

Image.MAX_IMAGE_PIXELS = None  # `photo` has a limit of its own, for every image
# Pillow warns of odd metadata, without telling of which file; the picture is what counts.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# Pillow allocates images in blocks of 16 MB, which glibc keeps for each thread that freed some; larger ones go back to
# the system at once. 16 threads that decode pictures with alpha then take a third of the memory.
Image.core.set_block_size(128 << 20)
register_heif_opener()

# No others: Pillow would call Ghostscript for an EPS.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "HEIF", "AVIF")
# Those that Pillow and libheif give these formats, and others that JPEG files are found under.
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo", ".webp"),
    *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".heic", ".heics", ".heif", ".heifs", ".hif", ".avif", ".avifs"),
)
# What macOS, Windows, NAS systems and git keep in folders of photos: thumbnails and deleted files among it, with the
# suffixes of photos. In small letters or large, since ZIP files and other systems change that.
_FOLDERS = (
    *("__MACOSX", r"\.AppleDouble", r"\.Trashes", r"\.Trash", r"\.Trash-\d+", r"\.Spotlight-V100", r"\.fseventsd"),
    *("@eaDir", "#recycle", "@Recycle", r"\.@__thumb", r"\$RECYCLE\.BIN", "System Volume Information"),
    *(r"\.thumbnails", r"\.git", r"\.dtn-ray"),
)
_FILES = (r"\._[^/]*", r"\.DS_Store", r"(eh)?thumbs(_\w+)?\.db", r"desktop\.ini", r"\.directory", r"icon\r")
LITTER_NAMES = rf"(?i)(^|/)(({'|'.join(_FOLDERS)})/|({'|'.join(_FILES)})$)"
CONTENT_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}

# What the threads of a process have decoded at once, or a bucket of large photos would take memory by the thread.
PIXELS_AT_ONCE = 256_000_000

ROWS_AT_ONCE = 256

# A JPEG is decoded at an eighth, a quarter or half of its size where so many times the wanted size remain.
OVERSAMPLING = 2

# By EXIF's orientation, as ImageOps.exif_transpose does, which also writes the EXIF block again, and fails at that.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WITH_ALPHA = {"RGBA", "LA", "La", "PA"}
WITH_ORIENTATION = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}


class Budget:
    """So many of something, of which each thread takes what it needs, and waits until others give it back."""

    def __init__(self, total: int) -> None:
        self.total = self.left = total
        self.changed = threading.Condition()

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """More than there are in all count as all of them. To take some while holding others can wait for ever."""
        count = min(count, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.left >= count)
            self.left -= count
        try:
            yield
        finally:
            with self.changed:
                self.left += count
                self.changed.notify_all()


_pixels = Budget(PIXELS_AT_ONCE)


def is_photo_name(key: str) -> bool:
    """Whether a key is called as a photo is: by its suffix, and not as what systems keep beside photos."""
    return key.lower().endswith(SUFFIXES) and re.search(LITTER_NAMES, key) is None


class TooManyPixels(ValueError):
    """An image has more pixels to decode than the limit."""


def decode(content: bytes, size: int, max_pixels: int) -> np.ndarray:
    """An encoded image's central square: 3×`size`×`size` uint8, sRGB, upright. Raises ValueError as `photo` does."""
    with _loaded(content, max_pixels, OVERSAMPLING * size) as (image, _):
        image, profile = _upright(image)
        image = to_rgb(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR), profile)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def photo(content: bytes, max_pixels: int, at_least: int | None = None) -> tuple[np.ndarray, float]:
    """An encoded image as H×W×3 uint8, sRGB, upright, and how many times larger than this it is.

    With `at_least`, a large JPEG comes at half, a quarter or an eighth of its size, its sides still so many pixels.
    Without, it comes so where it is a baseline JPEG of more than `max_pixels`.

    Any mode of Pillow's becomes RGB: grayscale, palette, CMYK, alpha on white, 16-bit (depth.py); of an animation, the
    first frame. Colours are converted to sRGB where the file has an ICC profile. Metadata that cannot be read are no
    reason to refuse a picture.

    Raises ValueError with the reason where the image is empty, damaged, unknown or of more than `max_pixels` to decode,
    and Truncated where a part of the picture is missing.
    """
    with decoded(content, max_pixels, at_least) as (pixels, scale):
        return pixels.copy(), scale


@contextmanager
def decoded(content: bytes, max_pixels: int, at_least: int | None = None) -> Iterator[tuple[np.ndarray, float]]:
    """`photo` for many threads, not to be written to: its pixels count among PIXELS_AT_ONCE until the block ends."""
    with _loaded(content, max_pixels, at_least) as (image, scale):
        yield np.asarray(to_rgb(*_upright(image))), scale


@contextmanager
def _loaded(content: bytes, max_pixels: int, at_least: int | None) -> Iterator[tuple[Image.Image, float]]:
    """An image as it is stored, and how many times smaller it is than stored. Raises as `photo` does."""
    if not content:
        raise ValueError("empty file")
    with ExitStack() as held:
        try:
            image, scale = _load(content, max_pixels, at_least, held)
        except TooManyPixels:
            raise
        except Exception as error:  # Pillow raises whatever the damaged byte leads to
            held.close()
            image, scale = _repaired(content, max_pixels, at_least, held, error)
        yield image, scale


def _load(content: bytes, max_pixels: int, at_least: int | None, held: ExitStack) -> tuple[Image.Image, float]:
    """Decodes an image as it is stored; its pixels count among PIXELS_AT_ONCE until `held` is closed."""
    image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    width, height = image.size
    if at_least:
        image.draft(image.mode, (at_least, at_least))
    elif width * height > max_pixels:
        image.draft(image.mode, _within(max_pixels, width, height))
    # Of a progressive JPEG, libjpeg holds all coefficients, whatever the size that it comes at.
    count = width * height if image.info.get("progressive") else image.width * image.height
    if count > max_pixels:
        raise TooManyPixels(f"{width}×{height} pixels, more than the limit of {max_pixels}")
    alpha = image.mode in WITH_ALPHA or "transparency" in image.info  # held with and without it for a while
    held.enter_context(_pixels.take(2 * count if alpha else count))
    if isinstance(image, TiffImageFile):
        depth.prepare(image)
    image.load()
    return image, max(width, height) / max(image.size)


def _within(max_pixels: int, width: int, height: int) -> tuple[int, int]:
    """The least reduction that a JPEG's decoder has and that leaves no more than `max_pixels`, as sizes for `draft`."""
    scale = next((scale for scale in (2, 4) if -(-width // scale) * -(-height // scale) <= max_pixels), 8)
    return max(1, width // scale), max(1, height // scale)


def _repaired(
    content: bytes, max_pixels: int, at_least: int | None, held: ExitStack, error: Exception
) -> tuple[Image.Image, float]:
    """`_load` of a file that failed with `error`, without its metadata. Raises as `photo` does."""

    def digest(other: bytes) -> bytes:
        with ExitStack() as own:
            image, sha = _load(other, max_pixels, at_least, own)[0], hashlib.sha256()
            for top in range(0, image.height, ROWS_AT_ONCE):  # not whole, which would hold the pixels twice
                bottom = min(top + ROWS_AT_ONCE, image.height)
                sha.update(image.crop((0, top, image.width, bottom)).tobytes())
        return sha.digest()

    try:
        for plain, metadata in repair.versions(content, digest):
            try:
                image, scale = _load(plain, max_pixels, at_least, held)
            except TooManyPixels:
                raise
            except Exception as another:
                held.close()
                error = another
            else:
                image.info.update(metadata.items())
                return image, scale
    except ValueError:
        raise
    except Exception as another:
        error = another
    if isinstance(error, UnidentifiedImageError):
        raise ValueError(_unknown(content)) from error
    raise ValueError(f"damaged image: {error}") from error


def _unknown(content: bytes) -> str:
    """Why Pillow cannot open a file, which `Image.open` keeps to itself."""
    for name in FORMATS:
        opens, accepts = Image.OPEN[name]
        if accepts is None or accepts(content[:16]) is not True:
            continue
        try:
            opens(io.BytesIO(content), "")
        except Exception as error:
            return f"damaged image, or a kind of {name} that is not supported: {error}"
    return "not an image of a known format"


def _upright(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """A loaded image turned upright, of mode L, RGB, CMYK or LAB, without transparency; and its ICC profile."""
    profile, method = image.info.get("icc_profile"), TURNS.get(_orientation(image))
    image = depth.to_8_bits(image)
    if method is not None:
        image = image.transpose(method)
    if image.has_transparency_data:
        mode = "L" if image.mode in ("L", "LA", "La") else "RGB"  # or a profile of greys would not fit
        image = image.convert("LA") if image.mode == "La" else image
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)  # alpha_composite would hold twice as much
        image = white if mode == "RGB" else white.convert(mode)
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image, profile


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8, else XMP's; 1 where none can be read."""
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and (found := _orientation_in(exif)):
        return found
    if not (image.info.keys() & WITH_ORIENTATION):
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises whatever the damaged byte leads to
        return 1


def _orientation_in(exif: bytes) -> int | None:
    """Of a block of EXIF; None where there is none. Pillow gives up at the first tag that it cannot read."""
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


def to_image(pixels: np.ndarray) -> Image.Image:
    """An array C×H×W uint8 (C 1 or 3) as a picture."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


# Lightest compression: zlib's default takes three times as long, more than decoding a photo.
ENCODING: dict[str, dict[str, int]] = {
    "png": {"compress_level": 1},
    "webp": {"lossless": True, "quality": 0},
    "jpeg": {"quality": 95, "subsampling": 0},
}


def encode(pixels: np.ndarray, format: str = "png") -> bytes:
    """An array C×H×W uint8 (C 1 or 3) as the bytes of a PNG, of a lossless WebP, or of a JPEG of quality 95."""
    buffer = io.BytesIO()
    to_image(pixels).save(buffer, format=format, **ENCODING[format])
    return buffer.getvalue()
