"""How a run of a bulk job ended, told to those who did not watch: by OUT/last-run.json, Ray's metrics and a webhook.

What the last good run left below OUT (summary.json, report.html) stays as it is when a run fails.
"""

import json
import logging
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from dtn_ray import storage
from dtn_ray.bulk.options import BulkJob
from dtn_ray.errors import UserError
from dtn_ray.metrics import JobMetrics
from dtn_ray.ray_cluster.connect import connect, has_cluster
from dtn_ray.secret_options import secret
from dtn_ray.storage.ownership import FIELDS, LAST_RUN, is_foreign, is_marked
from dtn_ray.text.display import chat, line
from dtn_ray.text.redact import redact, redact_all, remember_url

logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its warnings tell a webhook's path

J = TypeVar("J", bound=BulkJob)

# Kubernetes sends SIGKILL half a minute after SIGTERM; all that is told fits in between.
WAIT = 3.0  # seconds for a webhook's connection, and as many for each part of its answer …
WAIT_FOR_WEBHOOK = 10.0  # … and for all tries together, whatever its server or the network does
RETRIES = 2
WAIT_FOR_STORE = 10.0


def tell(run: Callable[[J], dict[str, Any]], job: J) -> dict[str, Any]:
    """Returns or raises what `run(job)` does, and tells how it ended; of a dry run, nothing.

    What is told holds no secrets (redact.py). `run` is not given the webhook. Raises UserError for a --webhook that is
    no URL, and names no variable or file with one. One that does not take the message is a warning.
    """
    if job.dry_run:
        return run(replace(job, webhook=""))
    webhook = secret("--webhook", job.webhook)
    host = _host(webhook)
    _warn_if_seen(job.webhook)
    job = replace(job, webhook="")
    began = time.time()

    def ended(outcome: str, what: str, **found: Any) -> None:
        now = time.time()
        record = {
            "text": chat(f"{job.kind.name} {job.source} → {job.out}: {outcome} after {now - began:.0f} s: {what}"),
            "job": job.kind.name,
            "source": redact(job.source),
            "out": redact(job.out),
            "outcome": outcome,
            **redact_all(found),
            "host": socket.gethostname(),
            "began": _clock(began),
            "ended": _clock(now),
            "seconds": round(now - began, 3),
        }
        _write(job.out, record)
        if host:
            _post(webhook, host, record)
        _export(job, outcome, now - began)

    try:
        summary = run(job)
    except (KeyboardInterrupt, SystemExit):
        ended("stopped", reason := "by Ctrl-C or SIGTERM; the same command resumes", error=reason)
        raise
    except BaseException as error:
        ended("failed", reason := _reason(error), error=reason)
        raise
    counts = {name: summary[name] for name in job.kind.told}
    what = ", ".join(f"{count} {name}" for name, count in counts.items())
    ended("succeeded", what, counts=counts, causes=summary["causes"])
    return summary


def _reason(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    # Ray's errors hold the tracebacks of its tasks, and end in the reason.
    text = redact("".join(traceback.format_exception_only(error)).strip())  # before it is cut
    return line(text.splitlines()[-1])


def _write(out: str, record: dict[str, Any]) -> None:
    """Writes OUT/last-run.json; not where there is no OUT, or the store, of which the run has complained, is silent.

    Nor over a file of this name that is not ours, which an OUT without our mark may hold.
    """

    def write() -> None:
        with suppress(UserError):
            uri = storage.join(out, LAST_RUN)
            if storage.exists(out) and (not is_foreign(uri, FIELDS[LAST_RUN]) or is_marked(out)):
                storage.write_bytes(uri, json.dumps(record, indent=2).encode(), "application/json")

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(WAIT_FOR_STORE)


def _host(webhook: str) -> str:
    """All of a webhook's URL that may be printed: the rest of it may be a secret."""
    if not webhook:
        return ""
    with suppress(requests.RequestException):
        url = urlsplit(requests.Request("POST", webhook).prepare().url or "")
        if url.scheme in ("http", "https"):
            remember_url(webhook)
            remember_url(url.geturl())  # as urllib3 tells of it where a try fails
            return url.hostname or ""
    raise UserError(
        "--webhook: not a URL such as https://HOST/PATH, nor env:NAME or file:PATH, which name a variable or a file "
        "that holds the URL"
    )


def _warn_if_seen(webhook: str) -> None:
    """Warns of a URL on the command line, unless it says no more than where a server is."""
    url = urlsplit(webhook)
    if url.scheme in ("http", "https") and (url.path.strip("/") or url.query or "@" in url.netloc):
        print(
            "warning: --webhook: other users can see this URL in `ps`, and in Ray's list of jobs. Use --webhook "
            "env:NAME or --webhook file:PATH instead, which name a variable or a file that holds the URL",
            file=sys.stderr,
        )


def _post(webhook: str, host: str, record: dict[str, Any]) -> None:
    """Tells a webhook. Waits no longer than WAIT_FOR_WEBHOOK; what fails, or takes longer, is a warning."""
    problem = f"no whole answer within {WAIT_FOR_WEBHOOK:g} s"

    def send() -> None:
        nonlocal problem
        problem = _sent(webhook, record)

    # Time-outs of sockets are for each read, and looking up a name has none: only a thread can be left behind.
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(WAIT_FOR_WEBHOOK)
    if problem:
        print(f"warning: --webhook: {host} was not told how the run ended: {problem}", file=sys.stderr)


def _sent(webhook: str, record: dict[str, Any]) -> str:
    """Tells a webhook; returns what is wrong, or nothing."""
    retries = Retry(
        RETRIES,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,  # all: better told twice than not
        respect_retry_after_header=False,  # it could hold the job up for an hour
        raise_on_status=False,
    )
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retries))
        session.mount("https://", HTTPAdapter(max_retries=retries))
        try:
            # Its answer is not read, and not followed elsewhere.
            with session.post(webhook, json=record, timeout=WAIT, stream=True, allow_redirects=False) as answer:
                return "" if 200 <= answer.status_code < 300 else f"HTTP status {answer.status_code}"
        except Exception as error:  # whatever a server can make a library raise; the texts of requests hold the URL
            return type(error).__name__


def _export(job: BulkJob, outcome: str, seconds: float) -> None:
    """To Ray's metrics, where there is a cluster; a run that ended early or had nothing to do did not join it yet."""
    if has_cluster():
        with suppress(ConnectionError):
            connect()
            JobMetrics(job.kind.name, job.out).ended(outcome, seconds)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
