"""What the command lines in jobs/ share: errors in one line, the result as JSON, exit codes."""

import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

from dtn_ray.errors import UserError
from dtn_ray.text.display import clean_streams
from dtn_ray.text.redact import redact_all

TERMINATED = 128 + signal.SIGTERM
CUT_OFF = 128 + signal.SIGPIPE


def run(job: Callable[[], dict[str, Any] | None]) -> None:
    """Calls a job and prints its result as JSON on the last lines; exits 0 only when it went well.

    A UserError is printed without a traceback and exits 2. Ctrl-C and SIGTERM exit 130 and 143, and 141 says that the
    reader of the output ended; the same command then resumes the job. From here on, everything that the process prints
    is cleaned (display.py).
    """
    clean_streams()
    try:
        try:
            _run(job)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _output_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at exit
        print("nothing reads the output any more; the same command continues from what was saved", file=sys.stderr)
        sys.exit(CUT_OFF)


def _output_closed() -> bool:
    """Whether the program that read the standard output, such as `head`, has ended."""
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _run(job: Callable[[], dict[str, Any] | None]) -> None:
    terminated = False

    def terminate(signum: int, frame: object) -> None:
        nonlocal terminated
        terminated = True
        sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, terminate)
    try:
        result = job()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from what was saved", file=sys.stderr)
        sys.exit(130)
    except SystemExit as stop:
        # Ray installs its own handler while it starts, and turns the exit code into 1 if the process is waiting for it.
        if terminated or stop.code == signal.SIGTERM:
            print("terminated; the same command continues from what was saved", file=sys.stderr)
            sys.exit(TERMINATED)
        raise
    if result is not None:
        print(json.dumps(redact_all(result), indent=2))
