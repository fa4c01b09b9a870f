"""Which node type Ray's autoscaler takes where two serve a job alike: spot, and on demand while spot cannot be had.

RAY_AUTOSCALER_UTILIZATION_SCORER=spot_first.score, on the head.
"""

from typing import Any

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _resource_based_utilization_scorer

Resources = dict[str, float]


def score(
    node: Resources, demands: list[Resources], node_type: str, *, node_availability_summary: NodeAvailabilitySummary
) -> tuple[Any, ...] | None:
    """By what the highest of several wins: what it is good for, that it can be had, that it is spot, how full it gets.

    None where no demand fits. Ray forgets a failed try after half an hour, and then tries that type again.
    """
    own = _resource_based_utilization_scorer(node, demands, node_availability_summary=node_availability_summary)
    if own is None:
        return None
    # Once a node of a type runs, Ray counts its memory too, and how full it gets no longer compares with other types'.
    no_waste_of_gpus, kinds, *fullness = own
    last = node_availability_summary.node_availabilities.get(node_type)
    return no_waste_of_gpus, kinds, last is None or last.is_available, "spot" in node_type, *fullness
