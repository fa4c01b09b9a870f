"""Requests GPUs from the cluster's autoscaler, waits for them, runs a command, and releases them when it ends.

python cluster/with_gpus.py 8 python jobs/train.py digits --data-dir s3://BUCKET/data --workers 8 --gpu

A job ends at once if it does not fit the cluster, and an autoscaled cluster starts without GPUs.
"""

import argparse
import subprocess
import sys
import time

from dtn_ray import cli
from dtn_ray.errors import UserError

POLL = 10  # seconds


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=30, help="how long to wait for the GPUs, in minutes (default: 30)"
    )
    parser.add_argument("gpus", metavar="GPUS", type=int, help="number of GPUs to wait for")
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run, with its options")
    return parser.parse_args(arguments)


def main(job: argparse.Namespace) -> None:
    """Exits with the command's exit code. Raises UserError if there is no command, or not enough GPUs in time."""
    if not job.command:
        raise UserError("no command: with_gpus.py GPUS COMMAND …")
    from ray.autoscaler.sdk import request_resources

    from dtn_ray.ray_cluster.connect import connect

    connect()
    request_resources(bundles=[{"GPU": 1}] * job.gpus)
    try:
        wait(job.gpus, 60 * job.minutes)
        with subprocess.Popen(job.command) as command:
            try:
                code = command.wait()
            finally:
                command.terminate()  # needed if this process was terminated; the job can be resumed later
    finally:
        request_resources(bundles=[])
    sys.exit(code)


def wait(gpus: int, seconds: float) -> None:
    import ray

    start = time.monotonic()
    while (there := int(ray.cluster_resources().get("GPU", 0))) < gpus:
        waited = time.monotonic() - start
        if waited > seconds:
            raise UserError(
                f"{there} of {gpus} GPUs after {waited:.0f} s: `ray status` and monitor.log on the head show what the "
                "autoscaler is waiting for. Request fewer GPUs, or raise the limits of the cluster."
            )
        print(f"{there} of {gpus} GPUs after {waited:.0f} s", flush=True)
        time.sleep(POLL)


if __name__ == "__main__":
    cli.run(lambda: main(parse(sys.argv[1:])))
