"""Draws a target set t in DiceBear's styles: aligned avatars, each with the options it was drawn from. Does not import
Ray.

The paper's t are emoji of an online service, centred and scaled by the irides and the tip of the nose (Sec. 5.2). A
style of DiceBear draws all its avatars over one figure, so one set of landmarks holds for the whole style.
"""

import io
import json
import random
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import resvg_py
from dicebear import Avatar, OptionsDescriptor, OptionsValidationError, Style
from PIL import Image

from dtn_ray.emoji.options import Expression
from dtn_ray.errors import UserError
from dtn_ray.faces.align import SIZE, TEMPLATE, similarity

Landmarks = tuple[tuple[float, float], ...]

# As fractions of the canvas, in the order of faces.LANDMARKS. avataaars: from where its parts are placed; the others:
# medians of what YuNet finds, levelled.
LANDMARKS: dict[str, Landmarks] = {
    "avataaars": ((0.407, 0.400), (0.593, 0.400), (0.500, 0.490), (0.440, 0.553), (0.560, 0.553)),
    "personas": ((0.431, 0.460), (0.591, 0.460), (0.511, 0.554), (0.451, 0.619), (0.571, 0.619)),
    "toon-head": ((0.423, 0.505), (0.579, 0.505), (0.501, 0.586), (0.437, 0.649), (0.565, 0.649)),
}

# Which variants of a style's parts make a neutral face, or a smiling one (Appendix B).
EXPRESSIONS: dict[str, dict[str, dict[str, list[str]]]] = {
    "avataaars": {
        "neutral": {
            "mouth": ["serious", "twinkle"],
            "eyes": ["default"],
            "eyebrows": ["default", "defaultNatural", "flatNatural"],
        },
        "smiling": {
            "mouth": ["smile"],
            "eyes": ["default", "happy"],
            "eyebrows": ["default", "defaultNatural", "raisedExcitedNatural"],
        },
    },
    "personas": {
        "neutral": {"mouth": ["lips", "smirk"], "eyes": ["glasses", "open", "sunglasses"]},
        "smiling": {"mouth": ["bigSmile", "smile"], "eyes": ["glasses", "happy", "open", "sunglasses"]},
    },
    "toon-head": {  # its closed mouths are called sad and smile, and the latter is nearly level
        "neutral": {"mouth": ["smile"], "eyes": ["happy", "wide"], "eyebrows": ["happy", "neutral"]},
        "smiling": {"mouth": ["laugh"], "eyes": ["happy", "wide"], "eyebrows": ["happy", "neutral"]},
    },
}


@dataclass(frozen=True)
class Emoji:
    """An avatar: its aligned picture, `size`×`size`×3 uint8, and all options that DiceBear resolved for it."""

    pixels: np.ndarray
    options: dict[str, Any]


@lru_cache
def _style(name: str) -> tuple[Style, dict[str, Any]]:
    path = files("dicebear_styles").joinpath(f"{name}.json")
    if name not in LANDMARKS or not path.is_file():
        raise UserError(f"--style {name}: choose one of {', '.join(LANDMARKS)}")
    definition = json.loads(path.read_text("utf-8"))
    return Style(definition), definition["meta"]


def licence(style: str) -> str:
    """The style's licence terms, in its author's words. Raises UserError for an unknown style."""
    return _style(style)[1]["license"]["text"]


def check(style: str, options: dict[str, Any]) -> None:
    """Raises UserError naming each of a style's options that DiceBear does not know, or would silently ignore."""
    known = {
        name: field.get("values")
        for name, field in OptionsDescriptor(_style(style)[0]).to_json().items()
        if name.endswith(("Variant", "Probability", "Color"))
        and name != "backgroundColor"  # others move the avatar off the template, or are ours
    }
    for name, value in options.items():
        if name not in known:
            raise UserError(f"--options: {style} has no {name}; it has {', '.join(sorted(known))}")
        if name.endswith("Probability"):
            continue
        if not isinstance(value, list | dict) or not value:
            raise UserError(f"--options: {name} must be a list of choices, or their weights as {{choice: weight}}")
        weights = value.values() if isinstance(value, dict) else ()
        if not all(isinstance(weight, int | float) and weight >= 0 for weight in weights) or (
            weights and not any(weights)
        ):
            raise UserError(f"--options: the weights of {name} must be at least 0, and not all 0")
        if wrong := [choice for choice in value if known[name] is not None and choice not in known[name]]:
            raise UserError(f"--options: {name} cannot be {', '.join(map(str, wrong))}; it is one of {known[name]}")


def draw(style: str, seed: str, expression: Expression = "neutral", size: int = SIZE, **options: Any) -> Emoji:
    """The avatar of a seed, on white; `options` are DiceBear's own and go before the expression's.

    Colours may have weights as well, {colour: weight}, which DiceBear has for variants only.
    Raises UserError for an unknown style, or for options that DiceBear refuses; of what it would ignore, `check` tells.
    """
    drawing, _ = _style(style)
    if expression != "any":
        options = {f"{part}Variant": names for part, names in EXPRESSIONS[style][expression].items()} | options
    for name, value in options.items():
        if name.endswith("Color") and isinstance(value, dict):
            options[name] = random.Random(f"{seed} {name}").choices([*value], [*value.values()])
    try:
        avatar = Avatar(drawing, options | {"seed": seed, "backgroundColor": ["#ffffff"]})
    except OptionsValidationError as error:
        raise UserError(f"--options: DiceBear says {error}") from error
    drawn = resvg_py.svg_to_bytes(
        svg_string=_aligned(avatar.to_string(), LANDMARKS[style], size),
        width=size,
        height=size,
        background="white",
        skip_system_fonts=True,
    )
    pixels = np.asarray(Image.open(io.BytesIO(bytes(drawn))).convert("RGB"))
    return Emoji(pixels, avatar.to_json()["options"])


def _aligned(svg: str, landmarks: Landmarks, size: int) -> str:
    """Crops an avatar's drawing to size×size so that its landmarks are at TEMPLATE.

    The avatar is aligned as a drawing: resampled once drawn, it would have to be drawn larger, which takes five times
    as long. Without `visible` the canvas is a mask, which takes half as long again.
    """
    (a, c, e), (b, d, f) = similarity(np.array(landmarks), TEMPLATE * size)
    canvas = svg.replace("<svg ", '<svg width="1" height="1" overflow="visible" ', 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}">'
        f'<g transform="matrix({a} {b} {c} {d} {e} {f})">{canvas}</g></svg>'
    )
