"""Beyond the paper: a DTN whose f has also seen t's images, without their labels."""

from dtn_ray.experiments import measures
from dtn_ray.experiments.caption import caption
from dtn_ray.experiments.digits import Digits
from dtn_ray.experiments.grid import Cell, Row, Table


def beyond(digits: Digits) -> Table:
    """The judge's accuracy on G(x), f's own on x beside it, and the adaptation to t that G(s) gives."""
    data, f, adapted = digits.base.data, digits.f, digits.adapted_f()
    x = {"dataset": data.source, "split": digits.test_split, "data_dir": data.data_dir}
    dtns = digits.transfers(f=adapted)
    adaptations = [digits.adaptation(dtn) for dtn in dtns]
    rows = [
        Row("f on x", (Cell(measures.classifier, (f,), x),)),
        digits.row("The judge on G(x)", 0.9066),
        Row("f adapted to t, on x", (Cell(measures.classifier, (adapted,), x),)),
        Row("The judge on G(x), f adapted to t", tuple(digits.scored(dtn) for dtn in dtns)),
        Row("f on t", (digits.on_t(f),)),
        Row("f adapted to t, on t", (digits.on_t(adapted),)),
        Row(
            "1-NN on t, gallery G(s), f adapted to t",
            tuple(digits.neighbours(each, data.source_split) for each in dtns),
            0.8444,
        ),
        Row(
            "A classifier trained on G(s), on t, f adapted to t",
            tuple(map(digits.on_t, adaptations)),
        ),
    ]
    own = (
        f"f adapted to t: FixMatch with distribution alignment, {adapted.options.steps} steps from f on, by labels of "
        f"s and images of {data.target}'s train split without labels, whose classes are taken to be equally frequent. "
        f"x: {data.source}'s test images. On t: {data.target}'s test split.",
        *caption(digits),
    )
    return Table("beyond", f"Beyond the paper: an f that has seen t, {digits.names}", rows, own)
