"""Table 2: domain adaptation from s to t, and what the same G(s) gives beyond a nearest neighbour."""

from dtn_ray.experiments import measures
from dtn_ray.experiments.caption import caption
from dtn_ray.experiments.digits import DANN_LR, Digits
from dtn_ray.experiments.grid import Cell, Row, Table


def table2(digits: Digits) -> Table:
    """The paper's rows, f on t as it is (the floor), and a classifier trained on G(s) (beyond the paper)."""
    data = digits.base.data
    t = {"dataset": data.target, "split": "test", "data_dir": data.data_dir}
    s = {"source": data.source, "source_data_dir": data.data_dir}
    train, test = s | {"source_split": data.source_split}, s | {"source_split": digits.test_split}
    dtns = digits.transfers()
    danns = [digits.dann(seed) for seed in digits.seeds]
    adaptations = [digits.adaptation(dtn) for dtn in dtns]
    rows = [
        Row("Source only: f", (Cell(measures.classifier, (digits.f,), t),)),
        Row(
            "SA (Fernando et al. 2013)",
            (Cell(measures.aligned, (digits.f,), t | train | {"dimensions": digits.options.dimensions}),),
            0.5932,
        ),
        Row("DANN (Ganin et al. 2016)", tuple(Cell(measures.classifier, (each,), t) for each in danns), 0.7385),
        Row(
            "DTN, 1-NN, transferring the train split s",
            tuple(Cell(measures.neighbours, (each,), t | train) for each in dtns),
            0.8444,
        ),
        Row(
            "DTN, 1-NN, transferring the test split",
            tuple(Cell(measures.neighbours, (each,), t | test) for each in dtns),
            0.7972,
        ),
        Row(
            "DTN, classifier trained on G(s), beyond the paper",
            tuple(Cell(measures.classifier, (each,), t) for each in adaptations),
        ),
    ]
    own = (
        f"Accuracy on {data.target}'s test split. SA: f's features, {digits.options.dimensions} dimensions, a linear "
        f"SVM. DANN: on f's architecture, begun with f and trained with f's augmentation at a rate of {DANN_LR:g} (as "
        f"published: from random weights, without augmentation, at 0.01), unlabelled images from {data.target}'s "
        f"train split. 1-NN: L2 "
        f"on pixels, the gallery is G(s) with s's labels, or G of s's test split. The last row: a network of f's "
        f"architecture trained on G(s) with s's labels.",
        *caption(digits),
    )
    title = f"Table 2: domain adaptation, {digits.names}"
    return Table("table2", title, rows, own)
