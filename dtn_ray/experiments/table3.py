"""Table 3: the accuracy of the digit '3' where s, t or f's training lack it (Sec. 5.1.1)."""

from collections.abc import Mapping
from typing import Any

from dtn_ray.experiments.caption import caption, made
from dtn_ray.experiments.digits import Digits
from dtn_ray.experiments.grid import Rate, Row, Table

UNSEEN = 3
ALONE = {"s_without": (UNSEEN,)}
VARIANTS: Mapping[str, tuple[dict[str, Any], float]] = {
    "DTN": ({}, 0.9467),
    "'3' was not shown in s": ({"s_without": (UNSEEN,)}, 0.9333),
    "'3' was not shown in t": ({"t_without": (UNSEEN,)}, 0.4013),
    "'3' was not shown in both s or t": ({"s_without": (UNSEEN,), "t_without": (UNSEEN,)}, 0.6002),
    "'3' was not shown in s, t, and during the training of f": (
        {"s_without": (UNSEEN,), "t_without": (UNSEEN,), "f_without": (UNSEEN,)},
        0.0452,
    ),
}
"""By the paper's words: what differs from the DTN, and the paper's accuracy."""


def table3(digits: Digits) -> Table:
    """The rows in the paper's order."""
    rows = [
        Row(title, digits.row(title, **changes).cells, paper, of_unseen) for title, (changes, paper) in VARIANTS.items()
    ]
    title = f"Table 3: accuracy of the judge on G(x), x a '3' of s's test split, {digits.names}"
    return Table("table3", title, rows, (*caption(digits), without(digits)))


def without(digits: Digits) -> str:
    """The line of a caption about the f that never saw the digit."""
    return f"The f that was not shown a '{UNSEEN}': {made(digits.f_without(UNSEEN))}."


def of_unseen(values: Mapping[str, Any]) -> Rate:
    """The accuracy of one digit alone."""
    counts = values["confusion"][UNSEEN]
    return Rate(counts[UNSEEN] / sum(counts), sum(counts))
