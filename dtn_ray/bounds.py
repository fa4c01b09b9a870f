"""Bounds of settings, by kind: `config.from_dict` refuses what lies outside, and so does `config.check`.

They keep a checkpoint's manifest from asking for networks and images without measure; each leaves far more room than
anyone has used. pydantic reads them, and tyro passes over them.
"""

from typing import Annotated

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Width = Annotated[float, Field(gt=0, le=8)]
"""Filters, relative to the paper's."""
Pixels = Annotated[int, Field(ge=1, le=2048)]
"""Of the side of a square."""
Features = Annotated[int, Field(ge=1, le=1 << 16)]
Count = Annotated[int, Field(ge=0, le=1 << 40)]
AtLeastOne = Annotated[int, Field(ge=1, le=1 << 40)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
