"""The token of a Ray that a job starts for itself. Whoever can read it can run anything as the job's user.

Ray reads it from RAY_AUTH_TOKEN, from the file that RAY_AUTH_TOKEN_PATH names, or from ~/.ray/auth_token. If there is
no such file, Ray would create it readable by everyone. This module creates it first, readable only by its owner. If the
home directory is missing or cannot be written, the token exists only in the environment of this Ray's processes.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from ray._private.authentication.authentication_token_generator import generate_new_authentication_token
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from dtn_ray.errors import UserError
from dtn_ray.secret_options import warn_if_shared
from dtn_ray.text.redact import remember

CONSEQUENCE = "who can run jobs as you with the Ray token in it"


def prepare(starts: bool) -> None:
    """Prepares the token before Ray reads it; `starts`: whether Ray starts on this machine, instead of joining a
    cluster.

    Warns if others can read its file. Raises UserError for a RAY_AUTH_TOKEN_PATH without a token.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token" if starts else "disabled")
    if mode.lower() != "token":
        return
    loader = AuthenticationTokenLoader.instance()
    try:
        there = loader.has_token(ignore_auth_mode=True)
    except AuthenticationError as error:
        named = os.environ.get("RAY_AUTH_TOKEN_PATH")
        raise UserError(
            f"RAY_AUTH_TOKEN_PATH={named}: no token can be read from it. Set it to the file that holds the cluster's "
            "token, or unset it to use ~/.ray/auth_token"
        ) from error
    if there:
        if (path := _path()) and not os.environ.get("RAY_AUTH_TOKEN"):
            warn_if_shared(path, CONSEQUENCE)
    elif starts:
        token = generate_new_authentication_token()
        path = _path()
        if not (path and _kept(path, token)):
            os.environ["RAY_AUTH_TOKEN"] = token
        loader.reset_cache()
    if starts and "RAY_AUTH_MODE" not in os.environ:
        # Ray would set this itself, but print a warning.
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")
    if loader.has_token(ignore_auth_mode=True):
        remember(loader.get_raw_token(ignore_auth_mode=True))


def _path() -> Path | None:
    """The file from which Ray reads the token, which may not exist; None without a home directory."""
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return Path(named)
    home = os.environ.get("HOME")  # Ray itself does not ask who the user is
    return Path(home, ".ray/auth_token") if home else None


def _kept(path: Path, token: str) -> bool:
    """Writes the token atomically; returns whether the file now holds a token: this one, or another process's."""
    new = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w") as file:
                file.write(token)
            with suppress(FileExistsError):
                os.link(new, path)
        finally:
            new.unlink(missing_ok=True)
        return path.stat().st_size > 0 and os.access(path, os.R_OK)
    except OSError:
        return False
