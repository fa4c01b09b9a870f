"""The presets side by side: the paper's settings and nothing added, and ours."""

from dtn_ray.experiments.caption import caption
from dtn_ray.experiments.digits import Digits
from dtn_ray.experiments.grid import Table


def presets(digits: Digits) -> Table:
    """A row for each preset that is for digits."""
    names = ("paper-digits", "digits", *(["embedded"] if digits.options.embedded else []))
    width_f = digits.base.model.width_f  # of the f that all rows share
    rows = [digits.row(name, 0.9066, digits.of_preset(name), width_f=width_f) for name in names]
    return Table("presets", f"Presets, {digits.names}", rows, caption(digits, names))
