"""Keeps superfluous output of Ray Train off the console. This uses private names of Ray; if a version lacks one, that
part is skipped.
"""

import logging
import os
from contextlib import suppress

import ray

COORDINATOR_SECONDS = 120.0


def prepare() -> None:
    """Call this in the driver, after connecting and before a training starts.

    Ray Train starts an actor, asks it for resources, and waits 5 s for the first answer. On a small machine the actor
    is still importing then, and Ray prints a traceback of 20 lines. Therefore the actor is started here.

    Ray Train's monitor searches for the cluster's dashboard among all Rays on the machine, and dies with a traceback
    if there are two. Therefore it receives the dashboard's address here.
    """
    with suppress(ImportError, ray.exceptions.RayError):
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        ray.get(get_or_create_autoscaling_coordinator().__ray_ready__.remote(), timeout=COORDINATOR_SECONDS)
    with suppress(ImportError, AttributeError):
        from ray._private.ray_constants import RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE as ADDRESS
        from ray._private.worker import get_dashboard_url
        from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

        if url := get_dashboard_url():
            os.environ.setdefault(ADDRESS, f"http://{url}")
            ENV_VARS_TO_PROPAGATE.add(ADDRESS)


def quiet_reports() -> None:
    """Call this in each worker: Ray Train logs the repr of each checkpoint, whatever log level is set.

    The name of that logger is not below `ray.train`, so the level of `ray.train` does not apply to it.
    """
    with suppress(ImportError, AttributeError):
        from ray.train.v2._internal.execution import context

        context.logger.setLevel(logging.WARNING)
