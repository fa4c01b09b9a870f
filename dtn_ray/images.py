"""Images of any kind from bytes, and pixels back to bytes."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

Image.MAX_IMAGE_PIXELS = None  # `decode` has a limit of its own, for every image
register_heif_opener()

# No others: Pillow would call Ghostscript for an EPS.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "HEIF", "AVIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif")
CONTENT_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}

# A JPEG is decoded at an eighth, a quarter or half of its size where so many times the wanted size remain.
OVERSAMPLING = 2


def decode(content: bytes, size: int, max_pixels: int) -> np.ndarray:
    """An encoded image's central square: 3×`size`×`size` uint8, RGB, upright. Raises ValueError as `photo` does."""
    image = _upright(content, max_pixels, OVERSAMPLING * size)[0]
    image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def photo(content: bytes, max_pixels: int, at_least: int | None = None) -> tuple[np.ndarray, float]:
    """An encoded image as H×W×3 uint8, RGB, upright, and how many times larger than this it is.

    With `at_least`, a large JPEG comes at half, a quarter or an eighth of its size, its sides still so many pixels. Any
    mode of Pillow's (grayscale, palette, CMYK, alpha on white, 16-bit) becomes RGB; of an animation, the first frame.
    Raises ValueError with the reason where the image is empty, damaged, unknown or of more than `max_pixels`.
    """
    image, scale = _upright(content, max_pixels, at_least)
    return np.array(image), scale


def _upright(content: bytes, max_pixels: int, at_least: int | None) -> tuple[Image.Image, float]:
    if not content:
        raise ValueError("empty file")
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise ValueError(f"{width}×{height} pixels, more than the limit of {max_pixels}")
        if at_least:
            image.draft(image.mode, (at_least, at_least))
        scale = max(width, height) / max(image.size)
        image = ImageOps.exif_transpose(image)
        if image.mode == "F":  # as scanners and simulations write it: 0 is black, the brightest value white
            values = np.nan_to_num(np.asarray(image)).clip(0)
            image = Image.fromarray((values / max(values.max(), 1e-9) * 255).astype(np.uint8))
        if image.mode.startswith("I"):  # Pillow clips 16 bits to 8 instead of scaling them
            image = Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        image = image.convert("RGB")
        image.load()
        return image, scale
    except UnidentifiedImageError as error:
        raise ValueError("not an image of a known format") from error
    except ValueError:
        raise
    except Exception as error:  # Pillow raises whatever the damaged byte leads to
        raise ValueError(f"damaged image: {error}") from error


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
