"""The token of Ray that a job makes or finds: whoever reads it runs anything as the job's user."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

PREPARE = """
import hashlib
from ray._raylet import AuthenticationTokenLoader
from dtn_ray import cli
from dtn_ray.ray_cluster import ray_token

def main():
    ray_token.prepare(starts={starts})
    loader = AuthenticationTokenLoader.instance()
    if loader.has_token(ignore_auth_mode=True):
        token = loader.get_raw_token(ignore_auth_mode=True)
        print(token, hashlib.sha256(token.encode()).hexdigest())

cli.run(main)
"""
START = """
import ray
from dtn_ray import cli
from dtn_ray.ray_cluster.connect import connect

@ray.remote
def task():
    return 42

def main():
    connect()
    print("a task ran:", ray.get(task.remote()))

cli.run(main)
"""


def run(code: str, home: Path | str | None, wait: bool = True, **variables: str):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "HOME"}
    environment = kept | variables | ({} if home is None else {"HOME": str(home)})
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        umask=0o022,
    )
    return (process.returncode, *told) if wait and (told := process.communicate(timeout=200)) else process


def printed(token: str) -> str:
    """What PREPARE prints of a token."""
    return f"*** {hashlib.sha256(token.encode()).hexdigest()}\n"


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def test_the_file_is_its_owner_s_alone_from_the_first_moment_and_whole(tmp_path):
    started = [run(PREPARE.format(starts=True), tmp_path / "home", wait=False) for _ in range(6)]
    told = [each.communicate(timeout=200) for each in started]
    assert [each.returncode for each in started] == [0] * 6 and {stderr for _, stderr in told} == {""}
    file = tmp_path / "home/.ray/auth_token"
    assert {stdout for stdout, _ in told} == {printed(file.read_text())} and len(file.read_text()) >= 32
    assert (mode(file), mode(file.parent)) == ("0o600", "0o700")
    assert os.listdir(file.parent) == ["auth_token"]


@pytest.mark.parametrize("starts", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_a_token_that_others_can_read_is_a_warning_with_what_to_type(tmp_path, starts, named):
    file = tmp_path / ("token" if named else ".ray/auth_token")
    file.parent.mkdir(exist_ok=True)
    file.write_text("ab" * 32)
    file.chmod(0o640)
    variables = {"RAY_AUTH_MODE": "token"} | ({"RAY_AUTH_TOKEN_PATH": str(file)} if named else {})
    code, stdout, stderr = run(PREPARE.format(starts=starts), tmp_path, **variables)
    assert (code, stdout) == (0, printed("ab" * 32))
    (warning,) = stderr.splitlines()
    assert warning.startswith(f"warning: {file} is open to other users") and warning.endswith(f": chmod 600 {file}")
    file.chmod(0o600)
    assert run(PREPARE.format(starts=starts), tmp_path, **variables)[2] == ""
    assert file.read_text() == "ab" * 32 and mode(file) == "0o600"


@pytest.mark.parametrize("variables", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "cd" * 32}])
def test_no_file_is_made_where_none_is_needed(tmp_path, variables):
    code, _, stderr = run(PREPARE.format(starts=True), tmp_path / "home", **variables)
    assert (code, stderr) == (0, "") and not (tmp_path / "home").exists()


def test_a_file_that_is_named_and_holds_no_token_is_one_line(tmp_path):
    for content in (None, ""):
        if content is not None:
            (tmp_path / "token").write_text(content)
        code, stdout, stderr = run(START, tmp_path, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
        assert (code, stdout) == (2, "")
        assert stderr.startswith(f"error: RAY_AUTH_TOKEN_PATH={tmp_path}/token: no token") and stderr.count("\n") == 1


@pytest.mark.parametrize(
    "home",
    ["/dev/null", pytest.param(None, marks=pytest.mark.slow)],
    ids=["none that can be written", "none"],
)
def test_without_a_home_ray_starts_behind_a_token_of_its_own(home):
    code, stdout, stderr = run(START, home)
    assert code == 0, stderr
    assert "a task ran: 42" in stdout and "Traceback" not in stderr


def test_an_empty_file_is_not_filled_where_others_read_it(tmp_path):
    file = tmp_path / ".ray/auth_token"
    file.parent.mkdir()
    file.touch(0o644)
    code, stdout, stderr = run(PREPARE.format(starts=True), tmp_path)
    assert (code, stdout[:4], stderr, file.read_text()) == (0, "*** ", "", "")
