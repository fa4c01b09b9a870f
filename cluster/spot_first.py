"""Chooses among suitable node types for Ray's autoscaler: spot first, on demand while no spot instance is available.

RAY_AUTOSCALER_UTILIZATION_SCORER=spot_first.score, on the head.
"""

from typing import Any

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _resource_based_utilization_scorer

Resources = dict[str, float]


def score(
    node: Resources, demands: list[Resources], node_type: str, *, node_availability_summary: NodeAvailabilitySummary
) -> tuple[Any, ...] | None:
    """The autoscaler launches the type with the highest score. None: the node fits no demand.

    Scores compare in this order: Ray's own first two criteria (no GPU node for jobs without GPUs, kinds of resources),
    not refused, longest time since the refusal, spot, utilization of the node. Ray forgets a refusal after half an
    hour. If all types are refused, they are therefore requested in turn.
    """
    own = _resource_based_utilization_scorer(node, demands, node_availability_summary=node_availability_summary)
    if own is None:
        return None
    no_waste_of_gpus, kinds, *_ = own
    # Once a node of a type runs, Ray also counts its memory. To stay comparable, count only requested resources.
    asked = {name: amount for name, amount in node.items() if any(name in demand for demand in demands)}
    filled = _resource_based_utilization_scorer(asked, demands, node_availability_summary=node_availability_summary)
    fullness = filled[2:] if filled else ()
    last = node_availability_summary.node_availabilities.get(node_type)
    refused = 0.0 if last is None or last.is_available else last.last_checked_timestamp
    return no_waste_of_gpus, kinds, -refused, "spot" in node_type, *fullness
