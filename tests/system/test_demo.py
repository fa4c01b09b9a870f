"""The whole output of `make demo`, line by line: nothing that a reader could not understand."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from clusters import ROOT

LEFT = r"· \d+ images/s · \d\d:\d\d left · "
KINDS = {
    "what comes next": r"[123]/3  .+",
    "classifier": rf"(street|handwritten)-digits classifier \d+/\d+ {LEFT}(loss|test error) \d+\.\d+",
    "dtn": rf"dtn \d+/\d+ {LEFT}(L_d|validation_L_const) \S+  .*(L_g|validation_accuracy) \S+",
    "facts": r"s_images \d+, t_images \d+, .*",
    "conversion": r"images: +\d+%\|.*\| \d+/96 \[.*\]",
    "result": r"(judge's accuracy on held-out images|without the transfer): \d+\.\d%.*",
    "converted": r"converted 96 of 96 images; contact sheet, source \| transferred:",
    "sheet": r"/.*/sheet\.png",
    "open token": r"warning: .*auth_token is open to other users .*",
}


def told(output: str) -> list[str]:
    """The lines, and the states of progress bars, without colours and without the names that Ray puts before them."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output)
    lines = (re.sub(r"^\(RayTrainWorker pid=\d+\) ", "", line.strip()) for line in re.split(r"[\r\n]", plain))
    return [line for line in lines if line]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_line_of_the_demo_is_one_that_a_person_would_read(tmp_path):
    command = [sys.executable, str(ROOT / "jobs/demo.py"), "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = told(done.stdout)
    assert done.returncode == 0, lines[-20:]
    kinds = Counter(next((kind for kind, form in KINDS.items() if re.fullmatch(form, line)), line) for line in lines)
    assert kinds.keys() - KINDS.keys() == set(), "lines of no known kind"
    assert kinds["what comes next"] == 3 and kinds["converted"] == kinds["sheet"] == 1 and kinds["result"] == 2
    assert kinds["classifier"] > 20 and kinds["dtn"] >= 12 and kinds["conversion"] >= 1
    assert len(lines) < 120
    assert Path(lines[-1]).is_file()
