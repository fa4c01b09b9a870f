"""Table 1: what each part of the method contributes to the judge's accuracy on G(x), x in s's test split."""

from collections.abc import Mapping
from typing import Any

from dtn_ray.experiments.caption import caption
from dtn_ray.experiments.digits import Digits
from dtn_ray.experiments.grid import Rate, Row, Table


def table1(digits: Digits) -> Table:
    """The rows in the paper's order."""
    dtn = digits.row("DTN", 0.9066)
    rows = [
        digits.row("Baseline method (Sec. 3)", 0.1371, with_f=False, binary=True, beta=0.0),
        dtn,
        digits.row("DTN w/o L_TID", 0.8840, beta=0.0),
        digits.row("DTN w/o L_CONST", 0.7455, alpha=0.0),
        digits.row("DTN G does not contain f", 0.3690, with_f=False),
        digits.row("DTN w/o L_D and L_GANG", 0.3470, gan=0.0),
        digits.row("DTN w/o L_CONST & L_TID", 0.0528, alpha=0.0, beta=0.0),
        # The judge does not depend on the seed.
        Row("Original image", dtn.cells[:1], 0.4006, original, picture="x"),
    ]
    return Table("table1", f"Table 1: accuracy of the judge on G(x), {digits.names}", rows, caption(digits))


def original(values: Mapping[str, Any]) -> Rate:
    """The judge's accuracy on x itself."""
    return Rate(values["original_image_accuracy"], values["images"])
