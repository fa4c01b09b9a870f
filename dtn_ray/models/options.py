"""How networks may be built. Imports only the standard library, because command lines read it."""

from typing import Literal

Upscaling = Literal["transposed", "nearest"]
"""How g of faces doubles its size."""
Norm = Literal["batch", "none"]
"""Of D of faces."""
