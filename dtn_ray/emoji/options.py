"""The options of drawing a target set."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

Expression = Literal["neutral", "smiling", "any"]


@dataclass(frozen=True)
class EmojiSet:
    """A set of avatars. The same settings always draw the same set."""

    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder or s3:// prefix for the Parquet files."""
    count: int = 10_000
    """Number of avatars."""
    style: str = "avataaars"
    """avataaars, personas or toon-head."""
    expression: Expression = "neutral"
    """neutral, smiling or any. For a mixture of neutral and smiling, draw two sets below one folder."""
    size: int = 152
    """Width and height of an avatar, in pixels."""
    options: str | None = None
    """JSON file with options of the style, as DiceBear names them, such as {"beardProbability": 30, "skinColor":
    {"#f1c3a5": 6, "#5c3829": 1}}. Choices are a list, or an object that gives each choice a weight. docs/avatars/ has
    an example."""
    seed: int = 0
    """Seed of the random choices."""
