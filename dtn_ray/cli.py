"""What the command lines in jobs/ share: options from dataclasses, errors in one line, the result as JSON."""

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

    A UserError is printed alone and exits 2. Ctrl-C and SIGTERM exit 130 and 143: every job resumes by its command.
    From here on, what the process prints is cleaned (display.py).
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
        print("interrupted; the same command goes on from what was saved", file=sys.stderr)
        sys.exit(130)
    except SystemExit as stop:
        # Ray has a handler of its own while it starts, and makes 1 of the code where it is waited for.
        if terminated or stop.code == signal.SIGTERM:
            print("terminated; the same command goes on from what was saved", file=sys.stderr)
            sys.exit(TERMINATED)
        raise
    if result is not None:
        print(json.dumps(redact_all(result), indent=2))
