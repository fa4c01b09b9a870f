"""Runs, checkpoints, ledgers and searches of an earlier version are read, and go on.

`tests/samples/earlier/` holds them; `make.sh` beside it made them with a version whose package had no rooms.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.perceptual.load import load_classifier
from dtn_ray.super_resolution.load import load_super_resolver
from dtn_ray.train.trained import load_trained

SAMPLES = Path(__file__).parents[1] / "samples/earlier"
PHOTOS_CHANGED = 1_700_000_000  # as make.sh says: of a local file, the ledger knows the time of its last change

CLASSIFIER = "--dataset handwritten-digits --split train --width 0.05"
DTN = (
    "--source handwritten-digits --source-split train --target handwritten-digits --f {f} --judge {f} "
    "--width-g 0.02 --width-D 0.05 --batch-size 16 --ema-decay 0.9"
)
SEARCH = f"{DTN} --steps 8 --trials 2 --checkpoint-every 2 --concurrent 1"


@pytest.fixture
def earlier(tmp_path, monkeypatch) -> Path:
    """A copy of the samples, as the current folder: the paths in them are relative to it."""
    shutil.copytree(SAMPLES, tmp_path, dirs_exist_ok=True)
    for photo in tmp_path.glob("photos/*"):
        os.utime(photo, (PHOTOS_CHANGED, PHOTOS_CHANGED))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(ray_cluster, call, earlier):
    """Runs a command line of make.sh again, on the shared Ray; gives its result, and what it told besides."""
    (f,) = Path("runs").glob("classifier-*")

    def run(line: str) -> tuple[dict, str]:
        code, out, err = call(f"{line.format(f=f)} --cpus-per-worker 1")
        assert code == 0, out + err
        told, start, result = f"\n{out}".rpartition("\n{\n")
        return json.loads(start + result), told + err

    return run


@pytest.mark.parametrize(
    ("line", "run"),
    [
        (f"pretrain {CLASSIFIER} --epochs 1", "classifier-handwritten-digits-*"),
        (f"train {DTN} --steps 6 --checkpoint-every 3", "dtn-*"),
        (f"tune {SEARCH}", "search-*"),
    ],
    ids=["classifier", "dtn", "search"],
)
def test_what_is_finished_is_found_under_its_name_and_not_run_again(command, line, run):
    (folder,) = Path("runs").glob(run)
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    found, _ = command(line)
    result = json.loads((folder / "result.json").read_text())
    assert found == {"checkpoint": f"{folder}/{result['checkpoint']}", **result["metrics"]}
    assert {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "steps", "load"),
    [
        (f"pretrain {CLASSIFIER} --epochs 10 --checkpoint-every 50 --name classifier", 140, load_classifier),
        (f"train {DTN} --steps 200 --checkpoint-every 50 --name dtn", 200, load_trained),
        (
            "super_resolution photos --test-images photos --patch 8 --middle 1 --steps 200 --checkpoint-every 50 "
            "--name srcnn",
            200,
            load_super_resolver,
        ),
    ],
    ids=["classifier", "dtn", "srcnn"],
)
def test_an_interrupted_training_goes_on_from_its_checkpoint(command, line, steps, load):
    found, _ = command(f"{line} --storage interrupted")
    assert found["step"] == steps and found["resumed_at"] in range(50, steps, 50)
    load(found["checkpoint"])


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on(command):
    (ended,) = Path("interrupted/search/trials").glob("*/result.json")
    before = ended.read_bytes()
    found, told = command(f"tune {SEARCH} --storage interrupted --name search")
    assert "continuing its trials" in told
    assert found["trials"] == 2 and Path("interrupted/search/best.json").is_file()
    assert ended.read_bytes() == before


def test_a_checkpoint_converts_as_it_did(earlier):
    (checkpoint,) = Path("runs").glob("dtn-*")
    made = {path.name: np.asarray(Image.open(path), int) for path in Path("out").rglob("images/*.png")}
    assert len(made) == 8 and len({image.tobytes() for image in made.values()}) > 1
    summary = convert(Conversion(str(checkpoint), "photos", "again"))
    assert (summary["converted"], summary["failed"]) == (8, 0)
    for path in Path("again").rglob("images/*.png"):
        assert abs(np.asarray(Image.open(path), int) - made[path.name]).max() <= 2  # kernels differ between CPUs
    (model,) = [path.parent.name for path in Path("out").glob("*/images")]
    assert Path(summary["folder"]).name == model, "the digest of G"


def test_a_conversion_leaves_what_an_earlier_version_did(earlier):
    (checkpoint,) = Path("runs").glob("dtn-*")
    kind = json.loads(Path("out/last-run.json").read_text())["job"]
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("images/*.png")}
    shutil.copy("photos/0.png", "photos/new.png")
    summary = convert(Conversion(str(checkpoint), "photos", "out"))
    assert (summary["done_before"], summary["converted"], summary["failed"]) == (8, 1, 0)
    after = {path: path.stat().st_mtime_ns for path in Path("out").rglob("images/*.png")}
    assert len(after) == 9 and before.items() <= after.items()
    assert json.loads(Path("out/last-run.json").read_text())["job"] == kind, "which is Prometheus' `kind` too"
