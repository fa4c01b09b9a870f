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
        from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

        if url := _dashboard():
            os.environ.setdefault(ADDRESS, url)
            ENV_VARS_TO_PROPAGATE.add(ADDRESS)


def addresses() -> dict[str, str]:
    """Environment variables for tasks that lead trainings, in the driver's terms: which Ray they belong to.

    Ray Train's monitor of each training would otherwise look for the controller in all Rays of the machine, and give
    up, or warn each second, where there are two.
    """
    found = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with suppress(ImportError, AttributeError):
        from ray._private.ray_constants import RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE as ADDRESS

        if url := _dashboard():
            found[ADDRESS] = url
    return found


def _dashboard() -> str | None:
    from ray._private.worker import get_dashboard_url

    url = get_dashboard_url()
    return f"http://{url}" if url else None


def quiet_reports() -> None:
    """Call this in each worker: Ray Train logs the repr of each checkpoint, whatever log level is set.

    The name of that logger is not below `ray.train`, so the level of `ray.train` does not apply to it.
    """
    with suppress(ImportError, AttributeError):
        from ray.train.v2._internal.execution import context

        context.logger.setLevel(logging.WARNING)
