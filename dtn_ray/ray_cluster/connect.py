"""Connects to Ray, and checks that the cluster is large enough."""

import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from urllib.parse import urlsplit

# Ray ends processes that have been idle for this long, by default 1 s. Readers of a stream pause for longer, and would
# spend most of their time importing. This applies to an embedded Ray; for clusters it is set where they start
# (cluster/).
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
# By default Ray waits 30 s for its node to start, which is not enough on a busy machine.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "60")

import ray
import ray.data
from ray._common.utils import get_ray_address_file
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.utils import read_ray_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from dtn_ray.errors import UserError
from dtn_ray.ray_cluster import ray_token
from dtn_ray.ray_cluster.deaths import death
from dtn_ray.storage import s3
from dtn_ray.text.display import line

START_ATTEMPTS = 2  # a node also fails if its agents take more than 15 s to start
KNOCK_SECONDS = 10.0  # Ray itself takes five minutes to report that nobody answers
ASK_SECONDS = 5.0  # between checks of the autoscaler
LINE_EVERY = 12  # checks between lines that say which nodes are missing


def connect(trains: bool = False) -> None:
    """Joins the cluster that runs this job or that RAY_ADDRESS names; otherwise starts an embedded Ray.

    `trains`: starts the embedded Ray with a dashboard, which takes ten seconds. Ray Train needs it: without it, it
    prints a warning each second. A process that runs trainings and other jobs must first connect with `trains`.

    Raises UserError if the cluster of RAY_ADDRESS cannot be reached or rejects the token, if RAY_AUTH_TOKEN_PATH names
    no token, and if Ray does not start on this machine.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or read_ray_address() or "local"
    if address not in ("auto", "local"):
        _knock(address)
    ray_token.prepare(starts=address == "local")
    if address == "local":
        # This machine cannot be preempted; the watcher would be one more process, and its start prints an error.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    dashboard = False if address == "local" and not trains else None
    for attempt in range(START_ATTEMPTS):
        try:
            with _own_sigterm():
                ray.init(
                    log_to_driver=True,
                    logging_level=logging.WARNING,
                    include_dashboard=dashboard,
                    runtime_env=None if address == "local" else _options_of_s3(),
                )
            return
        except (AuthenticationError, ConnectionError) as error:
            raise UserError(
                f"the Ray cluster at {address} rejects this job ({error}). If the cluster has a token (`ray "
                "get-auth-token` on its head prints it), set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token or "
                "RAY_AUTH_TOKEN_PATH to a file that holds it"
            ) from error
        except Exception as error:  # Ray has no error class for a process of its node that does not start in time
            if isinstance(error, (AssertionError, TypeError)):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if address != "local":
                raise UserError(f"the Ray cluster at {address} cannot be joined: {reason}") from error
            if attempt + 1 == START_ATTEMPTS or isinstance(error, ValueError):  # a bad setting stays bad
                raise UserError(
                    f"Ray does not start on this machine: {reason} Is the machine busy, or out of memory or disk space "
                    "(/tmp, /dev/shm)? Ray's logs are in /tmp/ray/session_latest/logs; to wait longer than 60 seconds, "
                    "set RAY_raylet_start_wait_time_s"
                ) from error
            print(f"Ray did not start; trying again: {line(reason)}", file=sys.stderr, flush=True)


def _options_of_s3() -> dict[str, Any] | None:
    """The variables to pass to workers of a standing cluster; those of an embedded Ray inherit them.

    A submitted job's workers have the job's own variables, and Ray refuses to set them twice.
    """
    variables = {name: os.environ[name] for name in s3.OPTIONS if os.environ.get(name)}
    return {"env_vars": variables} if variables and RAY_JOB_CONFIG_JSON_ENV_VAR not in os.environ else None


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Restores the process's handler of SIGTERM: Ray's handler aborts the process after 3 s and prints a stack."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def has_cluster() -> bool:
    """Whether this process has joined a Ray, or RAY_ADDRESS names one, as in every submitted job."""
    return ray.is_initialized() or os.environ.get("RAY_ADDRESS", "local") != "local"


def _knock(address: str) -> None:
    """Raises UserError if an address is invalid, or nobody listens there."""
    if "://" in address:
        raise UserError(
            f"RAY_ADDRESS={address} works only with `ray job submit --working-dir . -- python jobs/…`, which runs the "
            "job on the cluster. To run it on this machine, unset RAY_ADDRESS; on a node of a cluster, set it to "
            "HOST:6379, where HOST is the head"
        )
    try:
        at = urlsplit(f"//{address}")
        socket.create_connection((at.hostname, at.port or 6379), timeout=KNOCK_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error}). The address is that of RAY_ADDRESS or, if it is not set, "
            f"from {get_ray_address_file(None)}, which the last Ray on this machine wrote. Start the cluster, or set "
            "RAY_ADDRESS to HOST:PORT of its head; to run on this machine only, unset it and delete the file"
        ) from error


GOES_ON = "Nothing is lost: the same command continues from what was saved."


@contextmanager
def causes() -> Iterator[None]:
    """Re-raises the UserError of a task as itself; if Ray lost a process, raises a UserError that says why."""
    try:
        yield
    except RayTaskError as error:
        cause: BaseException | None = error.cause
        while cause and not isinstance(cause, UserError):
            cause = cause.__cause__
        # Pickling drops the __cause__ of an exception; the text of Ray's error still contains it.
        told = str(cause) if cause else "".join(re.findall(rf"^{_NAME}: (.*)$", str(error), re.MULTILINE)[:1])
        # Ray Data appends lines of general advice, which are cut off below.
        if not told and (reason := death(error)):
            told = f"{reason}. {GOES_ON}"
        raise UserError(told.splitlines()[0]) if told else error from None
    except RayError as error:
        if reason := death(error):
            raise UserError(f"{reason}. {GOES_ON}") from None
        raise


_NAME = re.escape(f"{UserError.__module__}.{UserError.__qualname__}")


def quiet_ray_data() -> None:
    """Keeps Ray Data's progress bars and plans off the console; its log file still has them. Warnings appear in
    both."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that they are off
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)


def worker_resources(
    workers: int,
    cpus: float | None,
    gpus: float,
    kind: str = "workers",
    spare: float = 0,
    at_least: int | None = None,
) -> dict[str, float]:
    """The resources of each of `workers` workers; `kind` is their name in messages and on the command line.

    `cpus` None: an even share of the nodes' CPUs, or one CPU beside a GPU. `spare`: CPUs to leave for tasks that the
    workers wait for; an even share is reduced by it. `at_least`: begin with so many workers if more do not fit.

    A worker never spans nodes. If an autoscaler can add what is missing, waits for it, and prints that. Otherwise
    raises UserError at once, with the requested and the existing resources, instead of waiting for nodes that never
    come.
    """
    each = {"CPU": cpus or 1.0} | ({"GPU": float(gpus)} if gpus else {})
    least = at_least or workers
    even = cpus is None and not gpus
    beside = 0 if even else spare  # an even share is reduced below
    if shortage := _shortage(each, least, kind, beside):
        _await_nodes([each] * least + ([{"CPU": beside}] if beside else []), shortage)
    if even:
        # The largest share with which all workers fit, if all nodes have the same size.
        nodes = [node for node in _nodes() if _room(node, each)]
        on_a_node = -(-workers // len(nodes))
        share = max(1.0, min(node["CPU"] for node in nodes) // on_a_node)
        each["CPU"] = share - min(spare / on_a_node, share / 2)
    return each


def trainings_at_once(
    workers: int, cpus: float | None, gpus: float, concurrent: int | None = None, spare: float = 0
) -> int:
    """Trainings that the cluster has room for at once, each of so many workers with `cpus` CPUs and `gpus` GPUs.

    `concurrent`: the number that a user asked for by --concurrent. `spare`: CPUs that each training leaves to tasks
    that its workers wait for. Raises UserError where there is no room for one, or not for `concurrent`.
    """
    each = worker_resources(workers, cpus, gpus, spare=spare)
    if concurrent is not None:
        worker_resources(concurrent * workers, cpus, gpus, "concurrent", spare=concurrent * spare)
        return concurrent
    total = ray.cluster_resources()
    needed = {name: workers * amount for name, amount in each.items()}
    needed["CPU"] += spare
    return max(1, int(min(total.get(name, 0) // amount for name, amount in needed.items() if amount)))


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _room(node: dict[str, float], each: dict[str, float]) -> int:
    return int(min(node.get(name, 0) // amount for name, amount in each.items()))


def _shortage(each: dict[str, float], workers: int, kind: str, spare: float = 0) -> str:
    """A message about what the present nodes lack for so many workers; empty if they fit."""
    nodes = _nodes()
    room = sum(_room(node, each) for node in nodes)
    total = {name: sum(node.get(name, 0) for node in nodes) for name in each}
    wanted = f"{workers} {kind}, each with {_amounts(each)}"
    if room < workers:
        return (
            f"{wanted}, do not fit: the cluster has {_amounts(total)} on {len(nodes)} node{'s' * (len(nodes) != 1)}, "
            f"enough for {room}. Lower --{kind} or add nodes."
        )
    if total["CPU"] < workers * each["CPU"] + spare:
        return (
            f"{wanted}, leave no CPU to read the data with: the cluster has {total['CPU']:g}. Lower --cpus-per-worker "
            f"or --{kind}, or add nodes."
        )
    return ""


def _await_nodes(bundles: list[dict[str, float]], shortage: str) -> None:
    """Waits until all bundles fit at the same time. Raises UserError if no autoscaler can add the nodes for them."""
    if _autoscaling() is None:
        raise UserError(shortage)
    group = placement_group(bundles)  # tells the autoscaler what is needed
    try:
        for asked in count():
            if asked % LINE_EVERY == 0:
                print(f"waiting for the autoscaler to add nodes: {shortage}", flush=True)
            if group.wait(ASK_SECONDS):
                break
            if _refused(group):
                raise UserError(f"{shortage} The limits of its autoscaler do not let it add enough nodes.")
    finally:
        remove_placement_group(group)


def _autoscaling() -> Any:
    """The last state of the cluster's autoscaler, or None if there is none."""
    reply = GcsClient(ray.get_runtime_context().gcs_address).get_cluster_status()
    status = GetClusterStatusReply.FromString(reply)
    return status.autoscaling_state if status.HasField("autoscaling_state") else None


def _refused(group: PlacementGroup) -> bool:
    """Whether the autoscaler cannot add the nodes for a group, even after other work has ended."""
    state = _autoscaling()
    refused = state.infeasible_gang_resource_requests if state else ()
    if not any(group.id.hex() in request.details for request in refused):
        return False
    free, all_there_is = ray.available_resources(), ray.cluster_resources()
    return all(free.get(name, 0) == all_there_is.get(name, 0) for bundle in group.bundle_specs for name in bundle)


@contextmanager
def telling_shortages(each: dict[str, float], workers: int) -> Iterator[None]:
    """During a `with`, prints each minute which nodes are missing; Ray Train itself waits for them silently."""
    end = threading.Event()

    def watch() -> None:
        while not end.wait(ASK_SECONDS * LINE_EVERY):
            if shortage := _shortage(each, workers, "workers"):
                print(f"waiting for nodes: {shortage}", flush=True)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _amounts(resources: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {kind}{'s' * (amount != 1)}" for kind, amount in resources.items())
