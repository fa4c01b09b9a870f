"""Fig. 3: the same '3's in the same places, transferred by the DTN and by those that never saw a '3'."""

from dtn_ray.experiments import figures, measures
from dtn_ray.experiments.caption import caption
from dtn_ray.experiments.digits import Digits
from dtn_ray.experiments.grid import Cell, Row, Table
from dtn_ray.experiments.table3 import UNSEEN, VARIANTS, without


def figure3(digits: Digits) -> Table:
    """The panels (b) to (f) as rows, of the first seed; the picture has (a), the input images, too."""
    settings = {"digit": UNSEEN, "test_split": digits.test_split}
    rows = [
        Row(title, (Cell(measures.digit, (digits.transfer(digits.seeds[0], **changes),), settings),), paper)
        for title, (changes, paper) in VARIANTS.items()
    ]
    title = f"Fig. 3: a random subset of the digit '{UNSEEN}', {digits.names}"
    own = (
        "In all panels the images keep their places; they are sorted by the probability of a '3' that the judge gives "
        "to the DTN's results, panel (b). The accuracies are of all '3's of the test split, for one seed.",
        *caption(digits),
        without(digits),
    )
    return Table("figure3", title, rows, own, draw=figures.panels)
