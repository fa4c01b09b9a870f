"""Options that name a secret instead of holding it: env:NAME or file:PATH.

Other users can see a command line in `ps` and in Ray's table of jobs, and also what is passed to
`ray job submit --runtime-env-json`.
"""

import os
import stat
import sys
from pathlib import Path

from dtn_ray.errors import UserError
from dtn_ray.text.display import name
from dtn_ray.text.redact import remember

LONGEST = 8192  # bytes of a file
OTHERS = 0o077  # what a mode may allow to others than the owner


def secret(option: str, given: str) -> str:
    """The value that an option's env:NAME or file:PATH refers to, hidden from then on; other text is returned as is.

    Raises UserError, without the value, for a variable or a file that is absent,
    empty, or of several lines.
    """
    kind, _, where = given.partition(":")
    if kind == "env":
        value, place = os.environ.get(where, ""), f"{option} env:{name(where)}"
        lacks = "this variable is not set, or empty; set it where this process runs (on a cluster: on the head)"
    elif kind == "file":
        value, place = _read(option, where), f"{option} file:{name(where)}"
        lacks = "the file is empty"
    else:
        return given
    value = value.strip()
    remember(value)
    if not value:
        raise UserError(f"{place}: {lacks}")
    if len(value.splitlines()) > 1:
        raise UserError(f"{place}: it has several lines; it must hold one line, the value")
    return value


def _read(option: str, where: str) -> str:
    path = Path(where.removeprefix("//")).expanduser()
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise UserError(f"{option} file:{name(where)}: more than {LONGEST} bytes; it must hold one line, the value")
        warn_if_shared(path, "who can read the secret in it")
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{option} file:{name(where)}: not a text file") from error
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path; ~ of nobody
        if isinstance(error, UserError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{option} file:{name(where)}: cannot be read: {reason}") from error


def warn_if_shared(path: Path, consequence: str) -> None:
    """Warns, by one line, where others on this machine may read or change a file that holds a secret."""
    try:
        found = path.stat()
    except OSError:
        return
    if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) & OTHERS:
        shown = name(path)
        print(
            f"warning: {shown} is open to other users of this machine, {consequence}: chmod 600 {shown}",
            file=sys.stderr,
            flush=True,
        )
