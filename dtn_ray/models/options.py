"""How networks may be built. Imports the standard library alone, for command lines read it."""

from typing import Literal

Upscaling = Literal["transposed", "nearest"]
"""How g of faces doubles its size."""
Norm = Literal["batch", "none"]
"""Of D of faces."""
