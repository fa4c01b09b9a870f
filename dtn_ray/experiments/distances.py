"""Secs. 3 and 4 on d and d2: "the performance is mostly unchanged", "no noticeable improvement"."""

from dtn_ray.experiments.caption import caption
from dtn_ray.experiments.digits import Digits
from dtn_ray.experiments.grid import Table


def distances(digits: Digits) -> Table:
    """The DTN, and one with each other d or d2."""
    rows = [
        digits.row("d = MSE, d2 = MSE", 0.9066),
        digits.row("d = cosine", d="cosine"),
        digits.row("d = hinge", d="hinge"),
        digits.row("d = triplet", d="triplet"),
        digits.row("d2 = a second GAN", d2="gan"),
    ]
    own = (
        "The paper, of d: “the performance is mostly unchanged”; of d2: “no noticeable improvement was observed”; it "
        "gives no numbers. α and β are those of the MSE in all rows, although the distances have other scales.",
        *caption(digits),
    )
    return Table("distances", f"Distances in L_CONST and L_TID, {digits.names}", rows, own)
