"""Which node type Ray's autoscaler takes where several serve a job alike: spot, and on demand while spot cannot be had.

RAY_AUTOSCALER_UTILIZATION_SCORER=spot_first.score, on the head.
"""

from typing import Any

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _resource_based_utilization_scorer

Resources = dict[str, float]


def score(
    node: Resources, demands: list[Resources], node_type: str, *, node_availability_summary: NodeAvailabilitySummary
) -> tuple[Any, ...] | None:
    """The type with the highest score is launched; None where no demand fits.

    Compared in this order: Ray's own first two points (no GPU node for jobs without GPUs, kinds of resources), not
    refused, longest since it was refused, spot, how full the node gets. Ray forgets a refusal after half an hour. Types
    that are all refused are thus asked in turns.
    """
    own = _resource_based_utilization_scorer(node, demands, node_availability_summary=node_availability_summary)
    if own is None:
        return None
    no_waste_of_gpus, kinds, *_ = own
    # Once a node of a type runs, Ray counts its memory too. So only what is asked for compares with other types.
    asked = {name: amount for name, amount in node.items() if any(name in demand for demand in demands)}
    filled = _resource_based_utilization_scorer(asked, demands, node_availability_summary=node_availability_summary)
    fullness = filled[2:] if filled else ()
    last = node_availability_summary.node_availabilities.get(node_type)
    refused = 0.0 if last is None or last.is_available else last.last_checked_timestamp
    return no_waste_of_gpus, kinds, -refused, "spot" in node_type, *fullness
