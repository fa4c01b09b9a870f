"""Converts colours to sRGB by a file's ICC profile. littlecms does the work, through Pillow."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from dtn_ray.images.repair import LARGEST_PROFILE

MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}  # Pillow's, by the profile's colour space

# A profile whose colours differ from sRGB's by at most this (of 255) is a variant of sRGB; there are many of them.
SAME = 2


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None] | None:
    """The mode of a profile and its transform to sRGB (None if it is sRGB already); or None for a broken profile."""
    if len(profile) > LARGEST_PROFILE:
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = MODES[opened.profile.xcolor_space.strip().upper()]
        to_srgb = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, KeyError, OSError, ValueError, TypeError, AttributeError):
        return None
    if mode == "RGB":
        steps = np.linspace(0, 255, 16).round().astype(np.uint8)
        before = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(64, 64, 3)
        after = np.asarray(to_srgb.apply(Image.fromarray(before)))
        if abs(after.astype(int) - before).max() <= SAME:
            return mode, None
    return mode, to_srgb


def to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts a loaded image of mode L, RGB, CMYK or LAB to sRGB, without a profile if that is broken or does not fit.

    May change the image itself.
    """
    mode, transform = (_transform(profile) if profile else None) or (None, None)
    if transform:
        if image.mode == "L" and mode == "RGB":  # a grey picture that was saved with its camera's profile
            image = image.convert("RGB")
        if image.mode == mode:
            if mode == "RGB":
                transform.apply_in_place(image)
                return image
            if mode == "L":  # ten times as fast as littlecms
                shades = transform.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None]))
                return Image.merge("RGB", [image.point(shade.tobytes()) for shade in shades.split()])
            return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")
