"""Image files of any kind → pixels."""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from pillow_heif import register_heif_opener

from dtn_ray.images import cost, depth, repair
from dtn_ray.images.budget import Budget
from dtn_ray.images.colour import to_rgb
from dtn_ray.images.cost import TooLarge, TooManyPixels
from dtn_ray.images.orientation import TURNS, may_turn, orientation

Image.MAX_IMAGE_PIXELS = None  # `photo` has a limit of its own, for every image
# Pillow's warnings of odd metadata do not name the file; only the picture matters here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# By default Pillow allocates images in blocks of 16 MB. glibc keeps freed blocks of this size for each thread, but
# returns larger ones to the system at once. With larger blocks, 16 threads that decode pictures with alpha take a third
# of the memory.
Image.core.set_block_size(128 << 20)
register_heif_opener()
# By default Pillow decodes an AVIF with a thread, and with memory, for each core of the machine. Photos are already
# decoded in parallel.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# Other formats are not opened; for an EPS, for example, Pillow would call Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "HEIF", "AVIF")

# Limit on the memory of decoding, in bytes, for all threads of a process together. A picture that needs more by itself
# is refused.
BYTES_AT_ONCE = 840 << 20
# Limit on the size of damaged files that are repaired at the same time; larger files are not repaired.
REPAIRED_AT_ONCE = 64 << 20

ROWS_AT_ONCE = 256

# A JPEG is decoded at an eighth, a quarter or half of its size if at least this many times the wanted size remain.
OVERSAMPLING = 2


_memory = Budget(BYTES_AT_ONCE)
_repairs = Budget(REPAIRED_AT_ONCE)


def decode(content: bytes, size: int, max_pixels: int) -> np.ndarray:
    """An encoded image's central square: 3×`size`×`size` uint8, sRGB, upright. Raises ValueError as `photo` does."""
    with ExitStack() as held:
        image, profile, _ = _upright(content, max_pixels, OVERSAMPLING * size, held)
        image = to_rgb(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR), profile)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def photo(content: bytes, max_pixels: int, at_least: int | None = None) -> tuple[np.ndarray, float]:
    """An encoded image as H×W×3 uint8, sRGB, upright; and the factor by which the stored image is larger.

    With `at_least`, a large JPEG is decoded at half, a quarter or an eighth of its size, with sides of at least so many
    pixels. Without it, this is done only for a baseline JPEG that has more than `max_pixels` or needs too much memory.

    All of Pillow's modes become RGB: grayscale, palette, CMYK, alpha on white, 16-bit (depth.py); of an animation, the
    first frame is used. If the file has an ICC profile, colours are converted to sRGB. Unreadable metadata do not
    prevent decoding.

    Raises ValueError with the reason if the image is empty, damaged, unknown, has more than `max_pixels` to decode, or
    would take more than BYTES_AT_ONCE or a minute, and Truncated if a part of the picture is missing.
    """
    with decoded(content, max_pixels, at_least) as (pixels, scale):
        return pixels, scale


@contextmanager
def decoded(content: bytes, max_pixels: int, at_least: int | None = None) -> Iterator[tuple[np.ndarray, float]]:
    """`photo` for many threads: its memory counts towards BYTES_AT_ONCE until the block ends."""
    with ExitStack() as held:
        image, profile, scale = _upright(content, max_pixels, at_least, held)
        image = to_rgb(image, profile)
        pixels = _array(image)
        del image
        yield pixels, scale


def _array(image: Image.Image) -> np.ndarray:
    """An RGB image as H×W×3 uint8. A large one is copied in parts, because Pillow holds the bytes twice meanwhile."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, ROWS_AT_ONCE * 4096 // image.width)
    for top in range(0, image.height, rows):
        part = image if rows >= image.height else image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(part)
    return pixels


def _upright(
    content: bytes, max_pixels: int, at_least: int | None, held: ExitStack
) -> tuple[Image.Image, bytes | None, float]:
    """The upright picture, of mode L, RGB, CMYK or LAB, without transparency; its ICC profile; and its scale.

    Its memory counts until `held` is closed. Raises as `photo` does. This is a single function so that no caller keeps
    a picture alive that has already been copied.
    """
    image, scale = _stored(content, max_pixels, at_least, held)
    profile, method = image.info.get("icc_profile"), TURNS.get(orientation(image))
    image = depth.to_8_bits(image)
    if method is not None:
        image = image.transpose(method)
    if image.has_transparency_data:
        mode = "L" if image.mode in ("L", "LA", "La") else "RGB"  # grey stays grey, so that a grey profile fits
        image = image.convert("LA") if image.mode == "La" else image
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)  # alpha_composite would hold twice as much
        image = white
        del white
        image = image if mode == "RGB" else image.convert(mode)
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image, profile, scale


def _stored(content: bytes, max_pixels: int, at_least: int | None, held: ExitStack) -> tuple[Image.Image, float]:
    """The decoded image before rotation, and the factor by which the stored image is larger. Raises as `photo` does."""
    if not content:
        raise ValueError("empty file")
    try:
        return _load(content, max_pixels, at_least, held)
    except TooLarge:
        raise
    except Exception as error:  # Pillow can raise anything for a damaged file
        held.close()
        reason = _without_frames(error)
    return _repaired(content, max_pixels, at_least, held, reason)


def _without_frames(error: Exception) -> Exception:
    """An exception without its traceback, which would keep partly decoded images alive."""
    each: BaseException | None = error
    while each:
        each.__traceback__, each = None, each.__context__
    return error


def _load(content: bytes, max_pixels: int, at_least: int | None, held: ExitStack) -> tuple[Image.Image, float]:
    """Decodes an image without rotation; its memory counts towards BYTES_AT_ONCE until `held` is closed."""
    header = cost.check(content)
    if header.size and not header.reducible:
        _check_pixels(header.size, header.size, max_pixels)
    if header.slow:
        raise TooLarge(header.slow)
    if header.at_open:
        _take(header.at_open, header.size or (0, 0), held)
    image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    stored, turned = image.size, header.turnable or may_turn(image)
    if image.format == "HEIF":  # `draft` may decode a thumbnail
        _take(cost.peak(image, stored, header, content, turned), stored, held)
    if at_least:
        image.draft(image.mode, (at_least, at_least))
    elif header.reducible:
        sizes = {scale: (-(-stored[0] // scale), -(-stored[1] // scale)) for scale in (1, 2, 4, 8)}
        fitting = (
            scale
            for scale, size in sizes.items()
            if size[0] * size[1] <= max_pixels and cost.peak(image, size, header, content, turned) <= _memory.total
        )
        if (scale := next(fitting, 8)) > 1:
            image.draft(image.mode, (max(1, stored[0] // scale), max(1, stored[1] // scale)))
    _check_pixels(image.size if header.reducible or image.format == "HEIF" else stored, stored, max_pixels)
    if not header.at_open and image.format != "HEIF":
        _take(cost.peak(image, image.size, header, content, turned), stored, held)
    if isinstance(image, TiffImageFile):
        depth.prepare(image)
    image = _frame(image)
    if image.mode in ("P", "PA") and image.palette is None:
        raise ValueError("it has no palette")
    return image, max(stored) / max(image.size)


def _frame(image: Image.Image) -> Image.Image:
    """Decodes an open image, and frees its decoder, which may hold as much memory as the picture."""
    decoder, own = getattr(image, "_decoder", None), image.format in ("WEBP", "AVIF")
    if not own or decoder is None:
        image.load()
        if hasattr(image, "_heif_file"):
            image._heif_file = None
        return image
    frame = decoder.get_next() if image.format == "WEBP" else decoder.get_frame(0)
    if frame is None:
        raise ValueError("its pixels cannot be decoded")
    decoder = image._decoder = None  # type: ignore[attr-defined]
    plain = Image.frombytes(image.mode, image.size, frame[0], "raw", getattr(image, "rawmode", image.mode))
    plain.info = image.info
    return plain


def _take(count: int, size: tuple[int, int], held: ExitStack) -> None:
    if count > _memory.total:
        raise TooLarge(
            f"{size[0]}×{size[1]} pixels would take {count >> 20} MiB to decode, more than the limit of "
            f"{_memory.total >> 20} MiB"
        )
    held.enter_context(_memory.take(count))


def _check_pixels(size: tuple[int, int], stored: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise TooManyPixels(f"{stored[0]}×{stored[1]} pixels, more than the limit of {max_pixels}")


def _repaired(
    content: bytes, max_pixels: int, at_least: int | None, held: ExitStack, error: Exception
) -> tuple[Image.Image, float]:
    """`_load` of a file that failed with `error`, without its metadata. Raises as `photo` does."""

    def digest(other: bytes) -> bytes:
        with ExitStack() as own:
            image, sha = _load(other, max_pixels, at_least, own)[0], hashlib.sha256()
            for top in range(0, image.height, ROWS_AT_ONCE):  # in parts, so that the pixels are not held twice
                bottom = min(top + ROWS_AT_ONCE, image.height)
                sha.update(image.crop((0, top, image.width, bottom)).tobytes())
        return sha.digest()

    if len(content) > REPAIRED_AT_ONCE:
        raise ValueError(f"damaged image: {error}")
    try:
        with _repairs.take(len(content)):
            for plain, metadata in repair.versions(content, digest):
                try:
                    image, scale = _load(plain, max_pixels, at_least, held)
                except TooLarge:
                    raise
                except Exception as another:
                    held.close()
                    error = _without_frames(another)
                else:
                    image.info.update(metadata.items())
                    return image, scale
    except ValueError:
        raise
    except Exception as another:
        error = _without_frames(another)
    if isinstance(error, UnidentifiedImageError):
        raise ValueError(_unknown(content)) from error
    raise ValueError(f"damaged image: {error}") from error


def _unknown(content: bytes) -> str:
    """The reason why Pillow cannot open a file, which `Image.open` does not report."""
    for name in FORMATS:
        opens, accepts = Image.OPEN[name]
        if accepts is None or accepts(content[:16]) is not True:
            continue
        try:
            opens(io.BytesIO(content), "")
        except Exception as error:
            return f"damaged image, or a kind of {name} that is not supported: {error}"
    return "not an image of a known format"
