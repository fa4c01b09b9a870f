"""The search over α, β, γ: what a trial is worth, what is refused, and a whole search on Ray Tune."""

import contextlib
import csv
import io
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import JOBS
from PIL import Image

from dtn_ray.errors import UserError
from dtn_ray.method.kid import kid
from dtn_ray.resumable.options import Run
from dtn_ray.search.job import search
from dtn_ray.search.options import Search, Space
from dtn_ray.search.tuner import SpareOwn
from dtn_ray.search.worth import Found, front, worth
from dtn_ray.train.trained import load_trained


def test_kid_is_the_unbiased_cubic_kernel_distance_in_units_of_t():
    features, of_t = torch.tensor([[3.0], [5.0]]), torch.tensor([[0.0], [2.0]])
    # In units of t: (3, 5) → (√2, 2√2), (0, 2) → (-√½, √½); k(x, y) = (xy + 1)³.
    x, y = (math.sqrt(2), 2 * math.sqrt(2)), (-math.sqrt(0.5), math.sqrt(0.5))
    mixed = sum((a * b + 1) ** 3 for a in x for b in y) / 4
    assert kid(features, of_t) == pytest.approx((x[0] * x[1] + 1) ** 3 + (y[0] * y[1] + 1) ** 3 - 2 * mixed, rel=1e-5)


def test_kid_is_near_nought_for_one_distribution():
    torch.manual_seed(0)
    same, other = torch.randn(2, 400, 16)
    near, far = kid(same, other), kid(same + 1, other)
    assert abs(near) < 0.05 and far > 1


def report(**values: float) -> dict[str, float]:
    return {"validation_L_const": 0.5, "validation_KID": 0.1, "L_d": 2.0, "L_gan_g": 3.0} | values


@pytest.mark.parametrize(
    ("metrics", "objective"),
    [
        (report(), 0.5),  # near enough to t: L_CONST alone counts
        (report(validation_KID=0.4), 1.0),  # twice as far as the limit
        (report(validation_KID=-0.01), 0.5),
        (report(validation_L_const=math.nan), math.inf),
        (report(L_d=3 * math.log(3), L_gan_g=2 * math.log(3)), math.inf),  # D guesses
    ],
)
def test_what_a_trial_is_worth(metrics, objective):
    assert worth(metrics, limit=0.2) == pytest.approx(objective)


def trial(name: str, L_const: float, domain: float) -> Found:
    return Found(name, {}, 1, L_const, L_const, domain, None, "complete", None)


def test_the_pareto_front_holds_what_no_other_beats_in_both():
    trials = [trial("a", 1, 3), trial("b", 2, 2), trial("c", 3, 2.5), trial("d", 4, 1), trial("e", 4, 4)]
    assert [each.name for each in front(trials)] == ["a", "b", "d"]


def test_weights_go_to_the_losses_and_rates_to_the_optimisers(experiment):
    other = experiment.changed(alpha=3.0, lr_g=1e-4, D_every=2, tv_reduction="sum")
    assert (other.loss.alpha, other.loss.tv_reduction) == (3.0, "sum")
    assert (other.optim.lr_g, other.optim.D_every) == (1e-4, 2)
    assert other.data == experiment.data


def test_asha_stops_the_worse_but_never_the_experiments_own_weights():
    own = {"alpha": 15.0}
    scheduler = SpareOwn(own, steps=100)
    scheduler.set_search_properties("objective", "min")

    def decide(name: str, config: dict[str, float], objective: float) -> str:
        each = SimpleNamespace(trial_id=name, config=config)
        scheduler.on_trial_add(None, each)
        return scheduler.on_trial_result(None, each, {"step": 25, "objective": objective})

    assert decide("good", {"alpha": 1.0}, 0.1) == "CONTINUE"
    assert decide("bad", {"alpha": 2.0}, 0.9) == "STOP"
    assert decide("own", own, 0.9) == "CONTINUE"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--space.alpha 10 1", "--space.alpha 10 1: LOW must be greater than 0, and HIGH at least LOW"),
        ("--space.lr-g 0 1", "--space.lr-g 0 1: LOW must be greater than 0"),
        ("--beta 0", "--beta 0 has no default range; set one with --space.beta LOW HIGH"),
        ("--space.alpha 1 1 --space.beta 1 1 --space.gamma 1 1", "nothing to search"),
        ("--space.D-every 0 1", "--space.D-every 0 must be at least 1"),
        ("--trials 0", "--trials 0 must be at least 1"),
        ("--concurrent 0", "--concurrent 0 must be at least 1"),
        ("--domain-limit 0", "--domain-limit 0.0 must be more than 0"),
        (
            "--checkpoint-every 151",
            "--checkpoint-every 151: too large to stop trials of 600 steps .* at most 150, or --scheduler none",
        ),
        ("--space.alhpa 1 10", "alhpa"),
        ("--sampler grid", "sampler"),
    ],
)
def test_a_search_that_cannot_be_meant_ends_at_once(call, line, message, tmp_path):
    code, out, err = call(f"tune {line} --storage {tmp_path}")
    assert code == 2
    assert re.search(message, " ".join((out + err).replace("│", " ").split()))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def searched(experiment, tmp_path_factory):
    """A search of two short trainings, both at a time, in a folder named as users name it."""
    folder = tmp_path_factory.mktemp("searched")
    settings = Search(trials=2, space=Space(beta=(15.0, 15.0), lr_g=(1e-4, 1e-3)))
    run = Run(storage="runs", name="search", checkpoint_every=1)
    with contextlib.chdir(folder):
        yield search(settings, experiment, run, concurrent=2), settings, run


@pytest.mark.slow
def test_a_search_leaves_a_table_with_its_own_weights_first_and_what_it_tried(searched, experiment):
    outcome, _, _ = searched
    rows = list(csv.DictReader(io.StringIO(Path(outcome.folder, "trials.csv").read_text())))
    assert len(rows) == 2 and "beta" not in rows[0]
    tried = {(float(row["alpha"]), float(row["gamma"]), float(row["lr_g"])) for row in rows}
    own = experiment.loss.alpha, experiment.loss.gamma, experiment.optim.lr_g
    assert own in tried and len(tried) == 2
    assert all(1.5 <= alpha <= 150 and 0.005 <= gamma <= 0.5 for alpha, gamma, _ in tried - {own})
    complete = [row for row in rows if row["state"] == "complete"]
    assert complete and all(row["step"] == "6" for row in complete)
    assert float(rows[0]["objective"]) == min(float(row["objective"]) for row in complete)
    assert outcome.metrics["own"]["held_out"].keys() == {"L_const", "domain", "objective", "accuracy"}


@pytest.mark.slow
def test_the_best_weights_are_a_file_that_train_takes_and_a_checkpoint(searched, job):
    outcome, _, _ = searched
    best = outcome.metrics["best"]
    parsed = job("train").parse([f"{outcome.folder}/best.json", "--steps", "9"])
    assert parsed.experiment.loss.alpha == best["alpha"] and parsed.experiment.optim.lr_g == best["lr_g"]
    assert parsed.experiment.optim.steps == 9
    loaded = load_trained(outcome.folder).experiment
    assert (loaded.loss.alpha, loaded.optim.lr_g) == (best["alpha"], best["lr_g"])


@pytest.mark.slow
def test_the_pictures_of_a_search_can_be_opened(searched):
    outcome, _, _ = searched
    for name in ("search.png", "samples.png"):
        assert min(Image.open(Path(outcome.folder, name)).size) > 100


@pytest.mark.slow
def test_a_finished_search_is_not_searched_again_and_another_is_refused(searched, experiment):
    outcome, settings, run = searched
    again = search(settings, experiment, run)
    assert again.resumed and again.metrics == outcome.metrics
    with pytest.raises(UserError, match=r"other settings \(search.trials: 2 → 5\)"):
        search(replace(settings, trials=5), experiment, run)


def test_more_at_once_than_the_cluster_holds_are_refused_with_the_numbers(experiment, tmp_path):
    run = Run(storage=str(tmp_path), name="search", checkpoint_every=1)
    with pytest.raises(UserError, match=r"9 concurrent, each with 1 CPU, do not fit: .* Lower --concurrent"):
        search(Search(trials=2), experiment, run, concurrent=9)


def test_a_file_that_is_no_experiment_is_named(call, tmp_path):
    (tmp_path / "best.json").write_text(json.dumps({"loss": {"alhpa": 1}}))
    for name, message in (("best.json", "loss.alhpa: no such setting"), ("none.json", "neither a file nor a preset")):
        code, _, err = call(f"train {tmp_path}/{name}")
        assert code == 2 and message in err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_whose_driver_was_killed_goes_on_with_its_trials(experiment, tmp_path):
    command = [
        *(sys.executable, str(JOBS / "tune.py"), "--trials", "2", "--steps", "40", "--batch-size", "16"),
        *("--source", "handwritten-digits", "--source-split", "train", "--target", "handwritten-digits"),
        *("--f", experiment.model.f, "--judge", experiment.model.f, "--width-g", "0.0625", "--width-D", "0.125"),
        *("--scheduler", "none", "--checkpoint-every", "10", "--concurrent", "1"),
        *("--storage", str(tmp_path), "--name", "search"),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}

    def ended() -> list[Path]:
        return sorted(tmp_path.glob("search/trials/*/result.json"))

    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    ) as driver:
        deadline = time.monotonic() + 350
        while not ended():
            assert time.monotonic() < deadline and driver.poll() is None
            time.sleep(0.2)
        driver.kill()
    before = {path: path.stat().st_mtime_ns for path in ended()}
    assert len(before) < 2 and not (tmp_path / "search/result.json").exists()
    again = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "continuing its trials" in again.stdout
    rows = list(csv.DictReader(io.StringIO((tmp_path / "search/trials.csv").read_text())))
    assert [row["state"] for row in rows] == ["complete"] * 2
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items()), "trained a second time"
    own = json.loads((tmp_path / "search/result.json").read_text())["metrics"]["own"]
    assert own["held_out"], "the first trial, which Tune did not see end, is scored as well"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_that_are_stopped_give_their_CPUs_back_where_another_Ray_runs_beside(experiment, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    beside = "import ray, time; ray.init(num_cpus=0); print('up', flush=True); time.sleep(3600)"
    command = [
        *(sys.executable, str(JOBS / "tune.py"), "--trials", "5", "--steps", "80", "--batch-size", "16"),
        *("--source", "handwritten-digits", "--source-split", "train", "--target", "handwritten-digits"),
        *("--f", experiment.model.f, "--judge", experiment.model.f, "--width-g", "0.0625", "--width-D", "0.125"),
        *("--checkpoint-every", "20", "--cpus-per-worker", str(os.cpu_count())),
        *("--storage", str(tmp_path), "--name", "search"),
    ]
    with subprocess.Popen([sys.executable, "-c", beside], env=environment, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "up\n"
            done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=550)
        finally:
            other.terminate()
    assert done.returncode == 0, done.stdout + done.stderr
    states = [row["state"] for row in csv.DictReader(io.StringIO((tmp_path / "search/trials.csv").read_text()))]
    assert len(states) == 5 and "stopped" in states
