"""Keeps Ray Train's own noise off the console. The names are Ray's private ones: where a version lacks one, its part
is left out.
"""

import logging
import os
from contextlib import suppress

import ray

COORDINATOR_SECONDS = 120.0


def prepare() -> None:
    """To be called by the driver, connected, before a training starts.

    Ray Train asks an actor for resources, which it starts itself, and waits 5 s for the first answer. On a small
    machine that actor is still importing then, and a traceback of 20 lines is printed: so it is started first.

    Ray Train's monitor looks for the cluster's dashboard through all Rays of a machine, and dies with a traceback
    where there are two: so it is told the dashboard's address.
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
    """To be called by a worker: Ray Train logs each checkpoint as a line of Python, whatever level is asked for.

    That logger carries the name of its file, which the level set for `ray.train` does not reach.
    """
    with suppress(ImportError, AttributeError):
        from ray.train.v2._internal.execution import context

        context.logger.setLevel(logging.WARNING)
