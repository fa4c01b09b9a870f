"""The embedded source domain s: SVHN-like crops of street-number digits, drawn on demand, nothing to download.

Each crop is made like a real one: a number is set in some typeface, painted on a shaded wall or plate, seen from an
angle, photographed small, blurred, with sensor noise, and enlarged to 32×32.
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 32

# The fonts inside matplotlib whose digits could hang on a house: not cmmi10, whose old-style 0 reads as an o, nor
# DejaVu Sans Mono, whose dotted 0 reads as an 8 once blurred. Sans serif counts twice: most house numbers are.
_SANS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "cmss10", "cmtt10")
_SERIF = (
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta", "cmb10", "cmr10", "cmti10"),
)
FONTS = 2 * _SANS + _SERIF

_GLYPH = 40  # height of a digit's mask: somewhat above its height in a crop, so that warping hardly ever enlarges it
_STRIP = (5 * _GLYPH, 2 * _GLYPH)
_SMOOTH = Image.Resampling.BILINEAR
_Y, _X = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j].astype(np.float32)


def street_digits(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws labelled street-number digits; crop i depends only on seed and i, so a shorter set starts a longer one.

    Returns images, count x 3 x 32 x 32 uint8 RGB in 0..255, and labels, count int64, uniform over 0..9: the digit in
    the middle. Raises ValueError if count or seed is negative.
    """
    if count < 0 or seed < 0:
        raise ValueError(f"count and seed must not be negative, got count={count}, seed={seed}")
    images = np.empty((count, 3, SIZE, SIZE), np.uint8)
    labels = np.empty(count, np.int64)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        labels[i] = rng.integers(10)
        images[i] = _photograph(_paint(_number(int(labels[i]), rng), rng), rng).transpose(2, 0, 1)
    return images, labels


@cache
def glyph(font: str, digit: int, stroke: int = 0) -> Image.Image:
    """Draws one digit of a font in FONTS, thickened by stroke pixels, as an 8-bit mask cropped to its ink."""
    import matplotlib  # for its fonts; imported here, because it takes half a second in every process

    path = str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf"))
    # The basic layout is the one every Pillow has, so that all installations draw the same digits.
    face = ImageFont.truetype(path, 2 * _GLYPH, layout_engine=ImageFont.Layout.BASIC)
    _, top, _, bottom = face.getbbox("0", anchor="ls")
    face = face.font_variant(size=round(2 * _GLYPH * _GLYPH / (bottom - top)))
    mask = Image.new("L", (2 * _GLYPH, 2 * _GLYPH))
    ImageDraw.Draw(mask).text((_GLYPH // 2, 3 * _GLYPH // 2), str(digit), 255, face, "ls", stroke_width=stroke)
    return mask.crop(mask.getbbox())


def _number(label: int, rng: np.random.Generator) -> np.ndarray:
    """The digit between up to two neighbours, seen from an angle: coverage, 32 x 32 float32 in 0..1."""
    font, stroke = FONTS[rng.integers(len(FONTS))], int(rng.integers(3))
    middle = glyph(font, label, stroke)
    left = (_STRIP[0] - middle.width) // 2
    right = left + middle.width
    gap = int(_GLYPH * rng.uniform(0.08, 0.35))
    strip = Image.new("L", _STRIP)
    strip.paste(middle, (left, (_STRIP[1] - middle.height) // 2))
    for is_right in (False, True):
        if rng.random() < 0.6:
            other = glyph(font, int(rng.integers(10)), stroke)
            x = right + gap if is_right else left - gap - other.width
            strip.paste(other, (x, (_STRIP[1] - other.height) // 2))

    scale = _GLYPH / rng.uniform(17, 28)
    angle, shear, squeeze = rng.normal(0, 0.1), rng.normal(0, 0.15), np.exp(rng.normal(0, 0.15))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    # Pillow needs the inverse mapping, from the crop to the strip. The last row turns the wall away from the camera.
    view = np.array(
        [[squeeze * cos, shear * cos - sin, 0], [squeeze * sin, shear * sin + cos, 0], [*rng.normal(0, 0.004, 2), 1]]
    )
    aim = SIZE / 2 + rng.normal(0, 1.6, 2)
    warp = _shift(_STRIP[0] / 2, _STRIP[1] / 2) @ view @ _shift(-aim[0], -aim[1])
    seen = strip.transform((SIZE, SIZE), Image.Transform.PERSPECTIVE, (warp / warp[2, 2]).flat[:8], _SMOOTH)
    return np.asarray(seen, np.float32) / 255


def _paint(cover: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The number in one colour on a wall of another, in uneven light: 32 x 32 x 3 float32, about 0..255."""
    contrast = np.clip(np.exp(rng.normal(4.35, 0.5)), 32, 210)
    dark = rng.uniform(20, 250 - contrast)
    wall_level, ink_level = (dark, dark + contrast) if rng.random() < 0.5 else (dark + contrast, dark)
    wall, ink = _colour(wall_level, rng), _colour(ink_level, rng)
    # Grain scales with contrast, so that a faint number stays readable.
    grain = rng.normal(0, rng.uniform(0, 0.2) * contrast, (8, 8)).astype(np.float32)
    scene = wall + np.asarray(Image.fromarray(grain).resize((SIZE, SIZE), _SMOOTH))[..., None]
    if rng.random() < 0.4:  # the edge of a plate, a frame or a door beside the number
        beyond = np.clip((_slope(rng) - rng.uniform(0.65, 1.1)) * SIZE / 2, 0, 1)[..., None]
        scene += beyond * (_colour(rng.uniform(20, 235), rng) - wall)
    if rng.random() < 0.25:  # raised numerals throw a shadow
        shadow = np.roll(cover, rng.integers(-2, 3, 2), (0, 1))[..., None]
        scene *= 1 - np.float32(rng.uniform(0.2, 0.6)) * shadow
    scene += cover[..., None] * (ink - scene)
    # Light only falls off: brightening would wash pale numbers out where the camera saturates.
    return scene * (1 + np.float32(rng.uniform(0, 0.25)) * (_slope(rng) - 1))[..., None]


def _photograph(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The scene through a small, noisy camera and enlarged again: 32 x 32 x 3 uint8."""
    pixels = int(rng.integers(8, 26))
    small = np.asarray(_image(scene).resize((pixels, pixels), _SMOOTH), np.float32)
    luma, chroma = rng.uniform(0.5, 5), rng.uniform(0, 2)
    noise = luma * rng.standard_normal((pixels, pixels, 1), np.float32)
    noise = noise + chroma * rng.standard_normal((pixels, pixels, 3), np.float32)
    return np.asarray(_image(small + noise).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _colour(level: float, rng: np.random.Generator) -> np.ndarray:
    """A colour about as bright as level: as on real house fronts mostly grey, otherwise bluish or brown, rarely
    green."""
    warmth, green = rng.laplace(-3, 12), rng.normal(0, 4)
    return np.array((level + warmth - green, level + green, level - warmth - green), np.float32).clip(0, 255)


def _slope(rng: np.random.Generator) -> np.ndarray:
    """A plane rising across the crop in some direction: 32 x 32 float32 in about -1.4..1.4."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.float32(np.cos(angle)) * _X + np.float32(np.sin(angle)) * _Y


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
