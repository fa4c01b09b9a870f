"""Images of any kind from bytes, and pixels back to bytes."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

Image.MAX_IMAGE_PIXELS = None  # `decode` has a limit of its own, for every image
register_heif_opener()

# No others: Pillow would call Ghostscript for an EPS.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "HEIF", "AVIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif")
CONTENT_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}

# What the threads of a process have decoded at once, or a bucket of large photos would take memory by the thread.
PIXELS_AT_ONCE = 256_000_000

# A JPEG is decoded at an eighth, a quarter or half of its size where so many times the wanted size remain.
OVERSAMPLING = 2


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


def decode(content: bytes, size: int, max_pixels: int) -> np.ndarray:
    """An encoded image's central square: 3×`size`×`size` uint8, RGB, upright. Raises ValueError as `photo` does."""
    image, _ = _open(content, max_pixels, OVERSAMPLING * size)
    with _pixels.take(image.width * image.height):
        image = ImageOps.fit(_upright(image), (size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def photo(content: bytes, max_pixels: int, at_least: int | None = None) -> tuple[np.ndarray, float]:
    """An encoded image as H×W×3 uint8, RGB, upright, and how many times larger than this it is.

    With `at_least`, a large JPEG comes at half, a quarter or an eighth of its size, its sides still so many pixels. Any
    mode of Pillow's (grayscale, palette, CMYK, alpha on white, 16-bit) becomes RGB; of an animation, the first frame.
    Raises ValueError with the reason where the image is empty, damaged, unknown or of more than `max_pixels`.
    """
    with decoded(content, max_pixels, at_least) as (pixels, scale):
        return pixels.copy(), scale


@contextmanager
def decoded(content: bytes, max_pixels: int, at_least: int | None = None) -> Iterator[tuple[np.ndarray, float]]:
    """`photo` for many threads, not to be written to: its pixels count among PIXELS_AT_ONCE until the block ends."""
    image, scale = _open(content, max_pixels, at_least)
    with _pixels.take(image.width * image.height):
        yield np.asarray(_upright(image)), scale


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError("not an image of a known format") from error
    except ValueError:
        raise
    except Exception as error:  # Pillow raises whatever the damaged byte leads to
        raise ValueError(f"damaged image: {error}") from error


def _open(content: bytes, max_pixels: int, at_least: int | None) -> tuple[Image.Image, float]:
    """An image of which nothing but the size is decoded yet, and how many times smaller it will come than it is."""
    if not content:
        raise ValueError("empty file")
    with _damage():
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise ValueError(f"{width}×{height} pixels, more than the limit of {max_pixels}")
        if at_least:
            image.draft(image.mode, (at_least, at_least))
        return image, max(width, height) / max(image.size)


def _upright(image: Image.Image) -> Image.Image:
    with _damage():
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "F":  # as scanners and simulations write it: 0 is black, the brightest value white
            values = np.nan_to_num(np.asarray(image)).clip(0)
            image = Image.fromarray((values / max(values.max(), 1e-9) * 255).astype(np.uint8))
        if image.mode.startswith("I"):  # Pillow clips 16 bits to 8 instead of scaling them
            image = Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        if image.mode != "RGB":  # or Pillow would copy it
            image = image.convert("RGB")
        image.load()
        return image


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
