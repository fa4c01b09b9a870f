"""Images of any kind from bytes, and pixels back to bytes."""

import io
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
CONTENT_TYPES = {"png": "image/png", "webp": "image/webp"}

# A JPEG is decoded at an eighth, a quarter or half of its size where so many times the wanted size remain.
OVERSAMPLING = 2


def decode(content: bytes, size: int, max_pixels: int) -> np.ndarray:
    """An encoded image as the digits' f takes it: 3×`size`×`size` uint8, upright, cropped to its central square.

    Raises ValueError as `decode_whole` does.
    """
    with _reasons():
        image = _rgb(content, max_pixels, (OVERSAMPLING * size, OVERSAMPLING * size))
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def decode_whole(content: bytes, max_pixels: int) -> np.ndarray:
    """An encoded image in its own size: 3×H×W uint8, upright.

    Any mode of Pillow's (grayscale, palette, CMYK, alpha on white, 16-bit) becomes RGB; of an animation, the first
    frame. Raises ValueError with the reason where the image is empty, damaged, unknown or of more than `max_pixels`.
    """
    with _reasons():
        return np.ascontiguousarray(np.asarray(_rgb(content, max_pixels)).transpose(2, 0, 1))


def _rgb(content: bytes, max_pixels: int, draft: tuple[int, int] | None = None) -> Image.Image:
    """`draft`: the least size that a JPEG may be decoded at."""
    if not content:
        raise ValueError("empty file")
    image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.width}×{image.height} pixels, more than the limit of {max_pixels}")
    if draft:
        image.draft(image.mode, draft)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":  # as scanners and simulations write it: 0 is black, the brightest value white
        values = np.nan_to_num(np.asarray(image)).clip(0)
        image = Image.fromarray((values / max(values.max(), 1e-9) * 255).astype(np.uint8))
    if image.mode.startswith("I"):  # Pillow clips 16 bits to 8 instead of scaling them
        image = Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


@contextmanager
def _reasons() -> Iterator[None]:
    """Makes a ValueError with the reason of whatever Pillow raises."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError("not an image of a known format") from error
    except ValueError:
        raise
    except Exception as error:  # Pillow raises whatever the damaged byte leads to
        raise ValueError(f"damaged image: {error}") from error


def to_image(pixels: np.ndarray) -> Image.Image:
    """An array C×H×W uint8 (C 1 or 3) as a picture."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def encode(pixels: np.ndarray, format: str = "png") -> bytes:
    """An array C×H×W uint8 (C 1 or 3) as the bytes of a PNG, or of a lossless WebP."""
    buffer = io.BytesIO()
    # Lightest compression: zlib's default takes three times as long, more than decoding a photo.
    options = {"compress_level": 1} if format == "png" else {"lossless": True, "quality": 0}
    to_image(pixels).save(buffer, format=format, **options)
    return buffer.getvalue()
