"""Bounds of settings, by kind. `settings.from_dict` and `settings.check` refuse values outside of them.

They keep a checkpoint's manifest from asking for networks and images of unbounded size; each is far larger than anyone
has needed. This module imports only the standard library, as the method's options do. pydantic reads the schema from
`Within`; tyro ignores it.
"""

from dataclasses import asdict, dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Within:
    """Marks a number that must lie within bounds, in the terms of pydantic's Field."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        return handler(source) | {name: value for name, value in asdict(self).items() if value is not None}


Share = Annotated[float, Within(ge=0, le=1)]
NotNegative = Annotated[float, Within(ge=0)]
Positive = Annotated[float, Within(gt=0)]
Width = Annotated[float, Within(gt=0, le=8)]
"""Filters, relative to the paper's."""
Pixels = Annotated[int, Within(ge=1, le=2048)]
"""Of the side of a square."""
Features = Annotated[int, Within(ge=1, le=1 << 16)]
Count = Annotated[int, Within(ge=0, le=1 << 40)]
AtLeastOne = Annotated[int, Within(ge=1, le=1 << 40)]
Seed = Annotated[int, Within(ge=0, lt=1 << 63)]
