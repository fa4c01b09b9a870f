"""Avatars as a target set: the same for a seed, with the expression asked for, aligned like faces."""

import json
from pathlib import Path

import numpy as np
import pytest

from dtn_ray.emoji.draw import EXPRESSIONS, LANDMARKS, check, draw, licence
from dtn_ray.errors import UserError
from dtn_ray.faces.align import TEMPLATE


@pytest.mark.parametrize("style", LANDMARKS)
def test_a_seed_gives_one_avatar_with_all_it_was_drawn_from(style: str) -> None:
    first, again, other = (draw(style, seed, "any") for seed in ("a", "a", "b"))
    assert first.pixels.shape == (152, 152, 3) and first.pixels.dtype == np.uint8
    assert (first.pixels == again.pixels).all() and first.options == again.options
    assert (first.pixels != other.pixels).any() and first.options != other.options
    assert licence(style)


@pytest.mark.parametrize("expression", ["neutral", "smiling"])
@pytest.mark.parametrize("style", LANDMARKS)
def test_an_expression_is_kept_to(style: str, expression: str) -> None:
    drawn = [draw(style, str(seed), expression, size=64).options for seed in range(20)]
    for part, names in EXPRESSIONS[style][expression].items():
        assert {options[f"{part}Variant"] for options in drawn} == set(names), "all of them, and no others"


def test_the_pupils_come_to_lie_where_those_of_photos_do() -> None:
    size = 304
    options = {"accessoriesProbability": 0, "topProbability": 0}
    pixels = np.median([draw("avataaars", str(seed), size=size, **options).pixels for seed in range(9)], axis=0)
    for eye in TEMPLATE[:2] * size:
        x, y = eye.round().astype(int)
        window = pixels[y - 30 : y + 30, x - 30 : x + 30].mean(2)
        dark = np.argwhere(window < window.min() + 20).mean(0) - 30
        assert np.abs(dark).max() < 6


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="--style shapes: choose one of avataaars"):
        draw("shapes", "a")


def test_options_choose_and_weigh_colours_and_parts() -> None:
    options = {"skinColor": {"#ffdbb4": 9, "#614335": 1}, "mouthVariant": ["smile"], "topVariant": {"bob": 1, "bun": 0}}
    check("avataaars", options)
    drawn = [draw("avataaars", str(seed), "neutral", 32, **options).options for seed in range(40)]
    fair = sum(each["skinColor"] == ["#ffdbb4"] for each in drawn)
    assert 30 <= fair < 40, "nine of ten"
    assert {each["mouthVariant"] for each in drawn} == {"smile"}, "options go before the expression's"
    assert {each["topVariant"] for each in drawn} == {"bob"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beard": 3}, "toon-head has no beard; it has beardProbability"),
        ({"rotate": 90}, "has no rotate"),
        ({"mouthVariant": ["grin"]}, "mouthVariant cannot be grin; it is one of"),
        ({"mouthVariant": "smile"}, "must be a list"),
        ({"skinColor": {"#ffffff": 0}}, "not all 0"),
        ({"skinColor": {"#ffffff": "much"}}, "must be at least 0"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, message) -> None:
    with pytest.raises(UserError, match=message):
        check("toon-head", options)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "docs/avatars").glob("*.json")), ids=lambda path: path.stem
)
def test_the_options_in_the_docs_serve(path: Path) -> None:
    options = json.loads(path.read_text())
    check(path.stem, options)
    assert draw(path.stem, "a", "any", 32, **options).pixels.std() > 10


def test_options_that_dicebear_refuses_are_named() -> None:
    with pytest.raises(UserError, match=r"--options: DiceBear says .*skinColor"):
        draw("toon-head", "a", skinColor=["blue"])
