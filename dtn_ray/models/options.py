"""Types of the networks' options. Imports only the standard library, because command lines import it."""

from typing import Literal

Upscaling = Literal["transposed", "nearest"]
"""How the faces' g doubles its resolution."""
Norm = Literal["batch", "none"]
"""Normalization in the faces' D."""
