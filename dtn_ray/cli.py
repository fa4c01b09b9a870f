"""What the command lines in jobs/ share: errors in one line, the result as JSON, exit codes."""

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from dtn_ray.errors import UserError
from dtn_ray.text.display import clean_streams
from dtn_ray.text.redact import redact_all

TERMINATED = 128 + signal.SIGTERM


def run(job: Callable[[], dict[str, Any] | None]) -> None:
    """Calls a job and prints its result as JSON on the last lines; exits 0 only when it went well.

    A UserError is printed without a traceback and exits 2. Ctrl-C and SIGTERM exit 130 and 143; the same command then
    resumes the job. From here on, everything that the process prints is cleaned (display.py).
    """
    clean_streams()
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
