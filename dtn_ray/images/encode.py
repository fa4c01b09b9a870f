"""Pixels → image files."""

import io

import numpy as np
from PIL import Image


def to_image(pixels: np.ndarray) -> Image.Image:
    """An array C×H×W uint8 (C 1 or 3) as a picture."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


# The lightest compression; zlib's default takes three times as long, longer than decoding a photo.
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
