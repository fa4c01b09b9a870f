"""Samples of more than eight bits, signed or floating point, as 8-bit grey; corrects what Pillow misreads in TIFFs."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

AT_ONCE = 1 << 20  # pixels that are converted at a time, so that a large picture is not held several times

BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339
WHITE_IS_ZERO, YCBCR, SEPARATE, SIGNED = 0, 6, 2, 2

# libtiff returns samples in the machine's byte order; Pillow 13 ignores that for these raw modes of big-endian files.
NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}


def prepare(image: TiffImageFile) -> None:
    """Corrects how Pillow will read the pixels of a TIFF that is not loaded yet. Raises ValueError if it cannot."""
    planes, first = image.tag_v2.get(PLANAR) == SEPARATE, image.tile[0]
    if planes and image.mode in ("LA", "La", "PA"):
        raise ValueError("a TIFF with alpha in a plane of its own beside greys is not supported")
    if first.codec_name == "libtiff":
        assert isinstance(first.args, tuple)
        image.tile = [first._replace(args=(NATIVE.get(first.args[0], first.args[0]), *first.args[1:]))]
        return
    deep = max(image.tag_v2.get(BITS, (1,))) > 8
    if planes and deep and image.mode in ("RGB", "RGBA", "CMYK"):
        mode, raw = image.mode, f"{image.mode};16N"  # Pillow reads planes of 16 bits as if they had 8
    elif image.tag_v2.get(PHOTOMETRIC) == YCBCR and image.mode == "YCbCr":
        mode, raw = "RGB", "RGBX"  # … and subsampled colours as if they were not
    else:
        return
    image._mode, image.use_load_libtiff = mode, True
    image.tile = [ImageFile._Tile("libtiff", (0, 0, *image._tile_size), 0, (raw, False, image.tag_v2.offset))]


def to_8_bits(image: Image.Image) -> Image.Image:
    """Converts a loaded image of mode I;16, I or F, or of signed bytes, to mode L; returns any other unchanged.

    16 bits, or a TIFF's 12, are scaled from black to white. 32 bits, signed samples and floating point have no agreed
    white: the greatest value becomes white; 0 becomes black, or the least value if that is negative. NaN is black.
    """
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    signed = (tags.get(SAMPLE_FORMAT) or (1,))[0] == SIGNED
    kind: str | None = None
    if image.mode == "L" and signed:
        kind = "i1"
    elif image.mode == "I" and tags and not signed:
        kind = "u4"
    elif image.mode != "F" and not image.mode.startswith("I"):
        return image
    if image.mode.startswith("I;16"):
        bits = (tags.get(BITS) or (16,))[0]
        low, high = 0.0, float((1 << bits) - 1)
    else:
        low, high = _range(image, kind)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        low, high = high, low
    grey = Image.new("L", image.size)
    for top, values in _parts(image, kind):
        scaled = values.astype(np.float32)
        scaled -= low
        scaled *= 255 / ((high - low) or 1)
        np.nan_to_num(scaled, copy=False, nan=0, posinf=255, neginf=0)
        scaled += 0.5
        grey.paste(Image.fromarray(scaled.clip(0, 255, out=scaled).astype(np.uint8)), (0, top))
    return grey


def _range(image: Image.Image, kind: str | None) -> tuple[float, float]:
    """The least and greatest of the finite values and 0."""
    low = high = 0.0
    for _, values in _parts(image, kind):
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return low, high


def _parts(image: Image.Image, kind: str | None) -> Iterator[tuple[int, np.ndarray]]:
    """Groups of rows of an image with about AT_ONCE pixels, each with the number of its first row."""
    rows = max(1, AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        values = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        yield top, values.view(kind) if kind else values
