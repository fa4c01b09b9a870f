"""The jobs as a user calls them, without Ray: command lines, errors, exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dtn_ray import cli
from dtn_ray.errors import UserError
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.resumable.options import Run
from dtn_ray.settings import fingerprint, to_dict
from dtn_ray.train.presets import PRESETS, digits, embedded, faces

JOBS = Path(__file__).parents[2] / "jobs"


# Command lines


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("train --help", ["embedded", "digits", "(the default)"]),
        ("train digits --help", ["--alpha", "--data-dir", "--workers", "--augment-s.rotation", "(default: mnist)"]),
        ("train --alpha 3 --help", ["embedded", "digits"]),
        ("pretrain --help", ["--dataset", "--augment.rotation", "--storage"]),
        ("convert --help", ["CHECKPOINT IN OUT", "--actors", "--dry-run", "--match"]),
        ("evaluate --help", ["--source-file", "--weights {convert,g}"]),
        ("demo --help", ["--out", "--seed"]),
        ("demo_faces --help", ["--out", "--detector", "--f", "--judge"]),
    ],
)
def test_help_lists_the_options(call, line, shown):
    code, out, err = call(line)
    assert code == 0 and err == ""
    assert [text for text in shown if text not in out] == []


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("train --bogus 3", "--bogus"),
        ("train digits --bogus 3", "--bogus"),
        ("train nope", "nope"),
        ("train --alpha many", "many"),
        ("train --d l7", "l7"),
        ("pretrain --bogus 3", "--bogus"),
        ("convert checkpoint photos", "OUT"),
        ("convert checkpoint photos out --actors many", "many"),
        ("evaluate", "CHECKPOINT"),
        ("evaluate checkpoint --weights best", "best"),
        ("demo --bogus 3", "--bogus"),
    ],
)
def test_bad_command_lines_exit_2_and_name_what_is_wrong(call, line, named):
    code, out, err = call(line)
    assert code == 2 and out == ""
    assert named in err and "Traceback" not in err


def test_training_without_arguments_is_the_embedded_preset(job):
    parsed = job("train").parse([])
    assert parsed.experiment == embedded() and parsed.run == Run()


def test_options_without_a_preset_are_those_of_embedded(job):
    parsed = job("train").parse(
        ["--steps", "7", "--alpha", "3", "--name", "a", "--no-with-f", "--augment-s.shift", ".1"]
    )
    experiment = parsed.experiment
    assert (experiment.optim.steps, experiment.loss.alpha, experiment.model.with_f) == (7, 3.0, False)
    assert experiment.data.augment_s.shift == 0.1 and parsed.run == Run(name="a")
    assert experiment.model.width_g == embedded().model.width_g


def test_the_papers_digits_on_the_command_line(job):
    parsed = job("train").parse(["digits", "--source", "svhn", "--target", "mnist", "--data-dir", "X"])
    assert parsed.experiment == replace(digits(), data=replace(digits().data, data_dir="X"))
    assert (parsed.experiment.loss.alpha, parsed.experiment.loss.beta, parsed.experiment.loss.gamma) == (15, 15, 0)


def test_classes_left_out_on_the_command_line(job):
    data = job("train").parse(["digits", "--s-without", "2", "3", "--t-without", "4", "--seed", "1"]).experiment.data
    assert (data.s_without, data.t_without, data.f_without) == ((2, 3), (4,), ())


def test_pretraining_options(job, monkeypatch):
    module = job("pretrain")
    options = [
        "--dataset",
        "svhn",
        "--data-dir",
        "s3://b/d",
        "--without",
        "5",
        "--augment.invert",
        "0",
        "--workers",
        "2",
    ]
    parsed = module.parse(options)
    default = Pretraining()
    assert parsed.config == replace(
        default, dataset="svhn", data_dir="s3://b/d", without=(5,), augment=replace(default.augment, invert=0.0)
    )
    assert parsed.run == Run(workers=2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train digits --data-dir {made}/gone", r"gone/svhn/train_32x32\.mat: no such file"),
        ("train digits", "svhn is read from files: .*--data-dir"),
        ("train digits --data-dir ftp://host/data", "ftp://host/data.*: unknown scheme"),
        ("train --source cifar", "unknown dataset 'cifar'"),
        ("train --batch-size 10 --workers 3", "--batch-size 10 cannot be divided evenly among --workers 3"),
        ("train --workers 0", "--workers"),
        ("train --validation 0", "--validation 0 must be at least 1"),
        ("train --binary", "--binary .* needs --beta 0"),
        ("pretrain --dataset nope", "unknown dataset 'nope': choose one of"),
        ("pretrain --dataset svhn", "svhn is read from files: .*--data-dir"),
        ("pretrain --dataset handwritten-digits --split extra", "no split 'extra': choose train or test"),
        ("pretrain --dataset handwritten-digits --without 0 1 2 3 4 5 6 7 8 9", "no image is left"),
        ("pretrain --batch-size 10 --workers 3", "--batch-size 10 cannot be divided evenly among --workers 3"),
        ("pretrain --workers 0", "--workers"),
        ("convert {made}/dtn {made}/gone {out}", "gone: no such folder or prefix"),
        ("convert {made}/dtn {made}/texts {out}", r"texts: no images there.*1 have a suffix"),
        ("convert {made}/gone {made}/photos {out}", "gone: no checkpoint here"),
        ("convert {made}/classifier {made}/photos {out}", r"kind 'classifier', .*jobs/train\.py"),
        ("convert {made}/dtn {made}/photos {made}/photos", "photos lies inside the source"),
        ("convert {made}/dtn {made}/photos {made}/photos/out", "photos/out lies inside the source"),
        ("convert {made}/dtn {made}/photos {made}/texts/../photos/out", "photos/out lies inside the source"),
        ("evaluate {made}/gone", "gone: no checkpoint here"),
        ("evaluate {made}/classifier", r"kind 'classifier', .*jobs/train\.py"),
        ("evaluate {made}/no-judge --source-file {made}/unseen.mat", "no judge.*--judge"),
        ("evaluate {made}/dtn", "svhn is read from files: .*--data-dir"),
        ("evaluate {made}/dtn --source-file {made}/gone.mat", r"gone\.mat: no such file"),
        ("evaluate {made}/dtn --source-file {made}/photos/a.png", r"photos/a\.png"),
        ("evaluate {made}/street --source-file {made}/unseen.mat", "--source-file .* this DTN's s is street-digits"),
        ("evaluate {made}/dtn --source-file {made}/unseen.mat --out {made}/unseen.mat/out", r"unseen\.mat/out"),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_2(call, made, tmp_path, line, message):
    code, out, err = call(line.format(made=made, out=tmp_path / "out"))
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err)
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} <= {
        "lease.json",
        "last-run.json",
        "mark.json",
    }


def test_a_missing_f_is_told_before_the_judge_is_trained(call, made, monkeypatch):
    def no_training(*_, **__):
        raise AssertionError("the judge was trained first")

    monkeypatch.setattr("dtn_ray.perceptual.job.pretrain", no_training)
    code, _, err = call(f"train --source svhn --source-split {made}/unseen.mat --f {made}/gone")
    assert code == 2 and f"{made}/gone: no checkpoint here" in err


def test_a_dtn_in_place_of_the_judge_is_refused(call, made):
    code, _, err = call(
        f"train --source svhn --source-split {made}/unseen.mat --f {made}/classifier --judge {made}/dtn"
    )
    assert code == 2 and re.search(r"made.*/dtn: .*kind 'dtn', .*jobs/pretrain\.py", err)


def test_a_job_in_a_process_of_its_own_ends_in_one_line_too(tmp_path):
    command = [sys.executable, str(JOBS / "train.py"), "digits", "--data-dir", str(tmp_path / "gone")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}/gone/svhn/train_32x32.mat: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


DIGITS_ALONE = ["--data-dir", "--source-split", "--s-without", "--judge", "--width-f", "--with-f", "--binary", "--d2"]
FACES_ALONE = ["--size", "--size-D", "--norm-D", "--upscaling"]


@pytest.mark.parametrize("name", ["train", "tune"])
@pytest.mark.parametrize(
    ("preset", "own", "others"),
    [
        ("digits", DIGITS_ALONE, FACES_ALONE),
        ("embedded", DIGITS_ALONE, FACES_ALONE),
        ("faces", FACES_ALONE, DIGITS_ALONE),
        ("faces-small", FACES_ALONE, DIGITS_ALONE),
    ],
)
def test_a_preset_has_the_options_that_apply_to_it(call, name, preset, own, others):
    code, out, _ = call(f"{name} {preset} --help")
    _, first, *more = re.split(r"\n \S* ?options +\n -+ +\n", out)
    titles = re.findall(r"\n (\S*) ?options +\n -+ +\n", out)
    table = "\n".join([first, *more])
    options = {option for line in table.splitlines() for option in re.findall(r"^\W{0,2}(--[\w-]+)|, (--[\w-]+)", line)}
    options = {option for found in options for option in found if option}
    assert code == 0 and len(options) > 40 and set(own) <= options
    assert not options & {*others, "--kind"}
    to_begin_with = set(re.findall(r"^ {1,2}(--[\w-]+)", first, re.M))
    assert len(to_begin_with) >= 10 and {"--alpha", "--steps", "--storage", "--workers"} <= to_begin_with
    assert titles[-1] == "run" and {"data", "network", "loss", "optimiser"} <= set(titles)
    assert "the weight of L_CONST (Eq. 5)" in " ".join(out.split()), "what an option means is told too"
    for option in (others[0], "--kind"):
        code, out, err = call(f"{name} {preset} {option} 3")
        assert code == 2 and option in out + err


@pytest.mark.parametrize("preset", PRESETS)
def test_the_options_of_a_preset_make_its_experiment(job, preset):
    """Not another class that looks like it: names of runs and checkpoints depend on it."""
    parsed = job("train").parse([preset, "--alpha", "3", "--workers", "2"])
    expected = PRESETS[preset][0]()
    expected = replace(expected, loss=replace(expected.loss, alpha=3.0))
    assert parsed.experiment == expected and type(parsed.experiment.data) is type(expected.data)
    assert fingerprint(parsed.experiment) == fingerprint(expected) and parsed.run == Run(workers=2)
    tuned = job("tune").parse([preset, "--trials", "3"])
    assert tuned.experiment == PRESETS[preset][0]() and tuned.search.trials == 3


def test_a_file_in_a_presets_place_has_the_options_of_its_domain(job, tmp_path, capsys):
    path = tmp_path / "best.json"
    path.write_text(json.dumps(to_dict(replace(faces(), seed=4))))
    parsed = job("train").parse([str(path), "--size-D", "96"])
    assert parsed.experiment == replace(faces(), seed=4, model=replace(faces().model, size_D=96))
    with pytest.raises(SystemExit):
        job("train").parse([str(path), "--judge", "runs/judge"])


HELP = """
import runpy, sys
sys.argv = sys.argv[1:] + ["--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    heavy = {"torch", "ray", "pyarrow", "boto3", "obstore", "cv2", "numpy", "PIL", "sklearn", "matplotlib"}
    print("exit", stop.code, *sorted(heavy & set(sys.modules)))
"""
LINES = [path.stem for path in sorted(JOBS.glob("*.py"))]
LINES += [f"{job} {name}" for job in ("train", "tune") for name in ("digits", "faces")]
LINES += ["pretrain faces", "evaluate retrieval", "baseline dann", "baseline sa"]


@pytest.mark.parametrize("line", LINES)
def test_help_does_not_wait_for_what_takes_seconds_to_import(tmp_path, line):
    name, *preset = line.split()
    command = [sys.executable, "-c", HELP, str(JOBS / f"{name}.py"), *preset]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.stdout.endswith("exit 0\n") and "--" in done.stdout, (done.stdout[-200:], done.stderr)


# What the command lines share


def test_a_result_is_printed_as_json(capsys):
    cli.run(lambda: {"checkpoint": "runs/a", "accuracy": 0.5})
    assert json.loads(capsys.readouterr().out) == {"checkpoint": "runs/a", "accuracy": 0.5}


def test_a_job_without_a_result_prints_nothing(capsys):
    cli.run(lambda: None)
    assert capsys.readouterr() == ("", "")


def fail(error: BaseException):
    raise error


def terminated_in_a_wait_for_ray():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit:
        sys.exit(1)  # as ray.get does with one raised in it


@pytest.mark.parametrize(
    ("job", "code", "message"),
    [
        (lambda: fail(UserError("a.mat: no such file")), 2, "error: a.mat: no such file\n"),
        (lambda: fail(KeyboardInterrupt()), 130, "interrupted; the same command continues from what was saved\n"),
        (
            lambda: os.kill(os.getpid(), signal.SIGTERM),
            143,
            "terminated; the same command continues from what was saved\n",
        ),
        (terminated_in_a_wait_for_ray, 143, "terminated; the same command continues from what was saved\n"),
    ],
    ids=["user error", "Ctrl-C", "SIGTERM", "SIGTERM in Ray"],
)
def test_exit_codes(capsys, job, code, message):
    with pytest.raises(SystemExit) as stopped:
        cli.run(job)
    assert stopped.value.code == code and capsys.readouterr() == ("", message)


@pytest.mark.parametrize("name", ["train faces", "demo"], ids=["more than a buffer", "less"])
def test_a_reader_that_leaves_gets_no_traceback(name):
    job, *preset = name.split()
    command = [sys.executable, str(JOBS / f"{job}.py"), *preset, "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 141 and err.count("\n") == 1 and "nothing reads the output" in err


def test_a_connection_that_breaks_is_not_taken_for_a_reader_that_leaves():
    with pytest.raises(BrokenPipeError):
        cli.run(lambda: fail(BrokenPipeError(32, "of a store")))


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: {"a": 1 / 0})
