"""Reports how a run of a bulk job ended: in OUT/last-run.json, in Ray's metrics and to a webhook.

A run that fails does not change the summary.json and report.html of the last run that succeeded.
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

logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its warnings show the path of the webhook's URL

J = TypeVar("J", bound=BulkJob)

# Kubernetes sends SIGKILL half a minute after SIGTERM; all reports must be sent within that time.
WAIT = 3.0  # seconds to connect to a webhook, and for each part of its answer
WAIT_FOR_WEBHOOK = 10.0  # seconds for all attempts together, whatever its server or the network does
RETRIES = 2
WAIT_FOR_STORE = 10.0


def tell(run: Callable[[J], dict[str, Any]], job: J) -> dict[str, Any]:
    """Calls `run(job)`, reports how it ended (except for a dry run), and returns or raises what it does.

    Reports hold no secrets (redact.py), and `run` does not receive the webhook. Raises UserError if --webhook is not a
    URL and does not name a variable or file with one. If the webhook does not accept the message, it prints a warning.
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
    # Ray's errors contain the tracebacks of its tasks; the reason is in their last line.
    text = redact("".join(traceback.format_exception_only(error)).strip())  # redacted before it is shortened
    return line(text.splitlines()[-1])


def _write(out: str, record: dict[str, Any]) -> None:
    """Writes OUT/last-run.json, unless OUT does not exist or the store does not answer in time.

    Does not replace a file of this name that dtn-ray did not write, which an OUT without the mark may hold.
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
    """The host of a webhook's URL, the only part that may be printed: the rest may be a secret."""
    if not webhook:
        return ""
    with suppress(requests.RequestException):
        url = urlsplit(requests.Request("POST", webhook).prepare().url or "")
        if url.scheme in ("http", "https"):
            remember_url(webhook)
            remember_url(url.geturl())  # the form in which urllib3's errors show it
            return url.hostname or ""
    raise UserError(
        "--webhook: not a URL such as https://HOST/PATH, nor env:NAME or file:PATH, which name a variable or a file "
        "that holds the URL"
    )


def _warn_if_seen(webhook: str) -> None:
    """Warns of a URL on the command line, unless it consists of a host only."""
    url = urlsplit(webhook)
    if url.scheme in ("http", "https") and (url.path.strip("/") or url.query or "@" in url.netloc):
        print(
            "warning: --webhook: other users can see this URL in `ps`, and in Ray's list of jobs. Use --webhook "
            "env:NAME or --webhook file:PATH instead, which name a variable or a file that holds the URL",
            file=sys.stderr,
        )


def _post(webhook: str, host: str, record: dict[str, Any]) -> None:
    """Sends the record to a webhook. Prints a warning if that fails or takes longer than WAIT_FOR_WEBHOOK."""
    problem = f"no complete answer within {WAIT_FOR_WEBHOOK:g} s"

    def send() -> None:
        nonlocal problem
        problem = _sent(webhook, record)

    # Socket time-outs apply to each read, and a name look-up has none. A thread can be abandoned at any time.
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(WAIT_FOR_WEBHOOK)
    if problem:
        print(f"warning: --webhook: {host} was not told how the run ended: {problem}", file=sys.stderr)


def _sent(webhook: str, record: dict[str, Any]) -> str:
    """Sends the record to a webhook; returns the problem, or an empty string."""
    retries = Retry(
        RETRIES,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,  # all methods, also POST: a duplicate message is better than none
        respect_retry_after_header=False,  # it could delay the job for an hour
        raise_on_status=False,
    )
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retries))
        session.mount("https://", HTTPAdapter(max_retries=retries))
        try:
            # The response body is not read, and redirects are not followed.
            with session.post(webhook, json=record, timeout=WAIT, stream=True, allow_redirects=False) as answer:
                return "" if 200 <= answer.status_code < 300 else f"HTTP status {answer.status_code}"
        except Exception as error:  # a server can make the library raise anything; its messages contain the URL
            return type(error).__name__


def _export(job: BulkJob, outcome: str, seconds: float) -> None:
    """Updates Ray's metrics, if there is a cluster. A run that ended early may not have joined it yet."""
    if has_cluster():
        with suppress(ConnectionError):
            connect()
            JobMetrics(job.kind.name, job.out).ended(outcome, seconds)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
