"""The options of drawing a target set."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

Expression = Literal["neutral", "smiling", "any"]


@dataclass(frozen=True)
class EmojiSet:
    """A set of avatars; the same settings draw the same set."""

    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder or s3:// prefix for the Parquet files."""
    count: int = 10_000
    """Avatars."""
    style: str = "avataaars"
    """avataaars, personas or toon-head."""
    expression: Expression = "neutral"
    """neutral, smiling or any; a set of both is two sets in one folder."""
    size: int = 152
    """Pixels of the aligned square."""
    options: str | None = None
    """JSON file of the style's own options, as DiceBear names them, such as {"beardProbability": 30, "skinColor":
    {"#f1c3a5": 6, "#5c3829": 1}}: choices are a list, or have weights. docs/avatars/ has one."""
    seed: int = 0
    """Another seed draws another set."""
