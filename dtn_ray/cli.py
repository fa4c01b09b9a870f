"""What the command lines in jobs/ share: options from dataclasses, errors as one line, a result as JSON."""

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from dtn_ray.errors import UserError


def run(job: Callable[[], dict[str, Any] | None]) -> None:
    """Calls a job and prints its result as JSON on the last lines; exits 0 only when it went well.

    A UserError is printed alone and exits 2. Ctrl-C and SIGTERM exit 130 and 143: every job resumes by its command.
    """
    signal.signal(signal.SIGTERM, _terminated)
    try:
        result = job()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what was saved", file=sys.stderr)
        sys.exit(130)
    except SystemExit as stop:
        if stop.code == signal.SIGTERM:  # from Ray's handler, while Ray starts
            _terminated(signal.SIGTERM, None)
        raise
    if result is not None:
        print(json.dumps(result, indent=2))


def _terminated(signum: int, frame: object) -> None:
    print("terminated; the same command goes on from what was saved", file=sys.stderr)
    sys.exit(128 + signum)
