"""Fig. 10a: the transfer in the other direction, with the same f (Appendix E)."""

from dtn_ray.experiments import figures
from dtn_ray.experiments.caption import caption
from dtn_ray.experiments.digits import Digits
from dtn_ray.experiments.grid import Row, Table
from dtn_ray.experiments.trainings import Transfer


def figure10_digits(digits: Digits) -> Table:
    """One row: the accuracy of a judge of photographed digits on G(x), x in the test split of written ones."""
    source, target = digits.base.data.target, digits.base.data.source
    judge = digits.judge_of(target)
    reverse = digits.base.changed(source=source, target=target, source_split="train", target_split="train")
    dtns = [Transfer(reverse.changed(seed=seed), digits.f, judge) for seed in digits.seeds]
    row = Row(f"{source} → {target}", tuple(digits.scored(dtn, "test") for dtn in dtns))
    own = (
        f"f is the one of the other direction, trained on {target}. The judge is another network of its architecture, "
        f"trained on {target}'s train split by another seed. The paper reports no number.",
        *caption(digits, base=reverse, judge=judge, test_split="test"),
    )
    return Table("figure10-digits", f"Fig. 10a: {source} → {target}, the same f", [row], own, draw=figures.pairs)
