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
    """To be called by a worker: Ray Train logs each checkpoint as a line of Python, whatever level is asked for.

    That logger carries the name of its file, which the level set for `ray.train` does not reach.
    """
    with suppress(ImportError, AttributeError):
        from ray.train.v2._internal.execution import context

        context.logger.setLevel(logging.WARNING)
