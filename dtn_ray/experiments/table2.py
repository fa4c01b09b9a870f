"""Table 2: domain adaptation from s to t, and what the same G(s) gives beyond a nearest neighbour."""

from dtn_ray.experiments import measures
from dtn_ray.experiments.caption import caption
from dtn_ray.experiments.digits import Digits
from dtn_ray.experiments.grid import Cell, Row, Table


def table2(digits: Digits) -> Table:
    """The paper's rows, f on t as it is (the floor), and a classifier trained on G(s) (beyond the paper)."""
    data = digits.base.data
    dtns = digits.transfers()
    danns = [digits.dann(seed) for seed in digits.seeds]
    adaptations = [digits.adaptation(dtn) for dtn in dtns]
    aligned = digits.t_test | digits.s(data.source_split) | {"dimensions": digits.options.dimensions}
    rows = [
        Row("Source only: f", (digits.on_t(digits.f),)),
        Row(
            "SA (Fernando et al. 2013)",
            (Cell(measures.aligned, (digits.f,), aligned),),
            0.5932,
        ),
        Row("DANN (Ganin et al. 2016)", tuple(map(digits.on_t, danns)), 0.7385),
        Row(
            "DTN, 1-NN, transferring the train split s",
            tuple(digits.neighbours(each, data.source_split) for each in dtns),
            0.8444,
        ),
        Row(
            "DTN, 1-NN, transferring the test split",
            tuple(digits.neighbours(each, digits.test_split) for each in dtns),
            0.7972,
        ),
        Row(
            "DTN, classifier trained on G(s), beyond the paper",
            tuple(map(digits.on_t, adaptations)),
        ),
    ]
    own = (
        f"Accuracy on {data.target}'s test split. SA: f's features, {digits.options.dimensions} dimensions, a linear "
        f"SVM. DANN: on f's architecture, begun with f and trained with f's augmentation at a rate of "
        f"{danns[0].options.lr:g} (as published: from random weights, without augmentation, at 0.01), unlabelled "
        f"images from {data.target}'s train split. 1-NN: L2 on pixels, the gallery is G(s) with s's labels, or G of "
        f"s's test split. The last row: a network of f's architecture trained on G(s) with s's labels.",
        *caption(digits),
    )
    title = f"Table 2: domain adaptation, {digits.names}"
    return Table("table2", title, rows, own)
