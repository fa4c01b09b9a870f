"""The jobs as a user calls them, without Ray: command lines, errors, scores, and how images are found and decoded."""

import importlib.util
import io
import json
import math
import os
import re
import runpy
import shlex
import signal
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from test_checkpoint import SMALL, write_classifier, write_dtn
from test_data import write_mat, write_mnist
from torch import nn

from dtn_ray import cli
from dtn_ray.checkpoint import Trained, load_trained
from dtn_ray.config import DataConfig, Experiment, Pretraining, Run, digits, embedded
from dtn_ray.convert import Conversion, Converter, decode, list_images
from dtn_ray.data.street_digits import street_digits
from dtn_ray.dtn import DTN, FrozenF
from dtn_ray.errors import UserError
from dtn_ray.evaluate.digits import PAPER, score_digits

JOBS = Path(__file__).parent.parent / "jobs"


def encode(image: Image.Image, form: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def sigterm():
    """Jobs handle SIGTERM in their own way; where one does not, its test fails and the others still run."""

    def unhandled(*_):
        raise AssertionError("SIGTERM was not handled")

    before = signal.signal(signal.SIGTERM, unhandled)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a job's file as `python jobs/NAME.py …` would, in this process; gives exit code, stdout and stderr."""

    def no_ray(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", no_ray)

    def run(line: str) -> tuple[int, str, str]:
        name, *arguments = shlex.split(line)
        monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py", *arguments])
        code = 0
        try:
            runpy.run_path(str(JOBS / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def job(monkeypatch):
    """Imports a job's file without running it."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """What the command lines below name: checkpoints, a folder of images, an SVHN file."""
    folder = tmp_path_factory.mktemp("made")
    write_dtn(folder / "dtn")
    write_dtn(folder / "no-judge", judge=False)
    write_dtn(folder / "street", replace(SMALL, data=DataConfig()))
    write_classifier(folder / "classifier")
    images, labels = street_digits(20, seed=5)
    write_mat(folder / "unseen.mat", labels, images.transpose(2, 3, 1, 0))
    (folder / "photos").mkdir()
    (folder / "photos/a.png").write_bytes(encode(Image.new("RGB", (40, 40))))
    (folder / "texts").mkdir()
    (folder / "texts/a.txt").write_text("a")
    return folder


# Command lines


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("train --help", ["embedded", "digits", "(the default)"]),
        ("train digits --help", ["--alpha", "--data-dir", "--workers", "--augment-s.rotation", "(default: mnist)"]),
        ("train --alpha 3 --help", ["embedded", "digits"]),
        ("pretrain --help", ["--dataset", "--augment.rotation", "--storage"]),
        ("convert --help", ["CHECKPOINT IN OUT", "--actors", "--batch-size"]),
        ("evaluate --help", ["--source-file", "--weights {convert,g}"]),
        ("demo --help", ["--out", "--seed"]),
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
    parsed = module.tyro.cli(module.Job, args=options)
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
        ("train --batch-size 10 --workers 3", "--batch-size 10 does not divide among --workers 3"),
        ("train --workers 0", "--workers"),
        ("train --binary", "--binary .* needs --beta 0"),
        ("pretrain --dataset nope", "unknown dataset 'nope': choose one of"),
        ("pretrain --dataset svhn", "svhn is read from files: .*--data-dir"),
        ("pretrain --dataset handwritten-digits --split extra", "no split 'extra': choose train or test"),
        ("pretrain --dataset handwritten-digits --without 0 1 2 3 4 5 6 7 8 9", "no image is left"),
        ("pretrain --batch-size 10 --workers 3", "--batch-size 10 does not divide among --workers 3"),
        ("pretrain --workers 0", "--workers"),
        ("convert {made}/dtn {made}/gone {out}", "gone: no such folder or prefix"),
        ("convert {made}/dtn {made}/texts {out}", r"texts: no images there \(1 other entr"),
        ("convert {made}/gone {made}/photos {out}", "gone: no checkpoint here"),
        ("convert {made}/classifier {made}/photos {out}", r"kind 'classifier'; .*jobs/train\.py"),
        ("convert {made}/dtn {made}/photos {made}/photos", "photos lies inside the source"),
        ("convert {made}/dtn {made}/photos {made}/photos/out", "photos/out lies inside the source"),
        ("evaluate {made}/gone", "gone: no checkpoint here"),
        ("evaluate {made}/classifier", r"kind 'classifier'; .*jobs/train\.py"),
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
    assert not (tmp_path / "out").exists()


def test_a_missing_f_is_told_before_the_judge_is_trained(call, made, monkeypatch):
    def no_training(*_, **__):
        raise AssertionError("the judge was trained first")

    monkeypatch.setattr("dtn_ray.train.pretrain", no_training)
    code, _, err = call(f"train --source svhn --source-split {made}/unseen.mat --f {made}/gone")
    assert code == 2 and f"{made}/gone: no checkpoint here" in err


def test_a_dtn_in_place_of_the_judge_is_refused(call, made):
    code, _, err = call(
        f"train --source svhn --source-split {made}/unseen.mat --f {made}/classifier --judge {made}/dtn"
    )
    assert code == 2 and re.search(r"made.*/dtn: .*kind 'dtn'; .*jobs/pretrain\.py", err)


def test_a_job_in_a_process_of_its_own_ends_in_one_line_too(tmp_path):
    command = [sys.executable, str(JOBS / "train.py"), "digits", "--data-dir", str(tmp_path / "gone")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}/gone/svhn/train_32x32.mat: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_of_evaluation_does_not_wait_for_torch(tmp_path):
    code = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    print("exit", stop.code, "torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(JOBS / "evaluate.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert "--source-file" in done.stdout and done.stdout.endswith("exit 0 False\n"), done.stderr


# What the command lines share


def test_a_result_is_printed_as_json(capsys):
    cli.run(lambda: {"checkpoint": "runs/a", "accuracy": 0.5})
    assert json.loads(capsys.readouterr().out) == {"checkpoint": "runs/a", "accuracy": 0.5}


def test_a_job_without_a_result_prints_nothing(capsys):
    cli.run(lambda: None)
    assert capsys.readouterr() == ("", "")


def fail(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("job", "code", "message"),
    [
        (lambda: fail(UserError("a.mat: no such file")), 2, "error: a.mat: no such file\n"),
        (lambda: fail(KeyboardInterrupt()), 130, "interrupted; the same command goes on from the last checkpoint\n"),
        (
            lambda: os.kill(os.getpid(), signal.SIGTERM),
            143,
            "terminated; the same command goes on from the last checkpoint\n",
        ),
    ],
    ids=["user error", "Ctrl-C", "SIGTERM"],
)
def test_exit_codes(capsys, job, code, message):
    with pytest.raises(SystemExit) as stopped:
        cli.run(job)
    assert stopped.value.code == code and capsys.readouterr() == ("", message)


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: {"a": 1 / 0})


# Scores


class Mean(nn.Module):
    """An f of one feature, the mean of an image in [-1, 1], with a classifier of the ten levels that `level` gives."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def represent(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(1, 2, 3))[:, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = (25 * torch.arange(10) + 15) / 127.5 - 1
        return -(self.sign * self.represent(x) - levels).abs()


class Negative(nn.Module):
    """A g that paints the negative of the mean: G turns gray level v into 255 - v."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return -features[:, :, None, None].expand(-1, 1, 32, 32)


def inverter(data: DataConfig) -> Trained:
    """A DTN whose scores can be worked out by hand: the judge reads digit k from gray level 25k + 15."""
    dtn = DTN(FrozenF(Mean(-1)), Negative(), nn.Identity())
    return Trained(dtn.eval(), Mean(1), Experiment(data=data), {})  # type: ignore[arg-type]


LABELS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 5]
# What the judge reads on G(x): it takes the 9, the second 0 and the second 5 for others.
READ = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1, 4]
GRAYS = np.array([255 - (25 * digit + 15) for digit in READ], np.uint8)


@pytest.fixture
def scored(tmp_path):
    """s as an SVHN test split; t's test split reads 3, 5, 6 with labels 3, 5, 3; t's train split is white."""
    s = np.broadcast_to(GRAYS, (32, 32, 3, 12)).copy()
    write_mat(tmp_path / "svhn/test_32x32.mat", LABELS, s)
    t = np.array([(25 * digit + 15) * 1024 / 784 for digit in (3, 5, 6)]).round().astype(np.uint8)
    write_mnist(tmp_path, [3, 5, 3], images=np.broadcast_to(t[:, None, None], (3, 28, 28)))
    write_mnist(tmp_path, [0, 0], part="train", images=np.full((2, 28, 28), 255, np.uint8))
    return tmp_path


def test_scores_equal_those_worked_out_by_hand(scored):
    scores = score_digits(inverter(DataConfig(source="svhn", target="mnist", data_dir=str(scored))))
    values = scores.values
    assert values["images"] == 12
    assert values["accuracy"] == pytest.approx(9 / 12)
    assert values["judge_accuracy"] == pytest.approx(2 / 3)
    # On x itself the judge reads 9 - k where it reads k on G(x): of the second 5, which G turns into a 4, a 5.
    assert values["original_image_accuracy"] == values["f_accuracy_on_G_s"] == pytest.approx(1 / 12)
    assert values["f_error_on_s"] == pytest.approx(3 / 12)
    # f reads 9 - k on t: 6, 4, 3.
    assert values["f_accuracy_on_t"] == pytest.approx(1 / 3)
    # f(x) = m and f(G(x)) = -m.
    means = GRAYS / 127.5 - 1
    assert values["L_const"] == pytest.approx(np.mean(4 * means**2), rel=1e-5)
    # A white square of 784 pixels in 1024 on black: its mean is (784 - 240) / 1024, and G paints the negative.
    mean = 544 / 1024
    assert values["L_tid"] == pytest.approx((784 * (1 + mean) ** 2 + 240 * (-1 + mean) ** 2) / 1024, rel=1e-5)
    assert values["paper"] == PAPER


def test_the_confusion_matrix_counts_labels_against_the_judges_answers(scored):
    scores = score_digits(inverter(DataConfig(source="svhn", target="mnist", data_dir=str(scored))))
    expected = np.zeros((10, 10), int)
    for label, read in zip(LABELS, READ, strict=True):
        expected[label % 10, read] += 1
    assert expected[9, 8] == expected[0, 1] == expected[5, 4] == 1
    np.testing.assert_array_equal(scores.confusion, expected)
    assert scores.values["confusion"] == expected.tolist()
    assert scores.values["per_class_accuracy"] == {str(k): {0: 0.5, 5: 0.5, 9: 0.0}.get(k, 1.0) for k in range(10)}


def test_the_interval_is_wilsons(scored):
    low, high = score_digits(inverter(DataConfig("svhn", "mnist", str(scored)))).values["accuracy_95"]
    n, p, z = 12, 9 / 12, 1.959964
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert low == pytest.approx((middle - half) / (1 + z**2 / n), rel=1e-5)
    assert high == pytest.approx((middle + half) / (1 + z**2 / n), rel=1e-5)


def test_G_of_s_is_kept_beside_it_for_the_figure(scored):
    scores = score_digits(inverter(DataConfig("svhn", "mnist", str(scored))))
    assert scores.source.shape == (12, 3, 32, 32) and scores.transferred.shape == (12, 1, 32, 32)
    assert scores.transferred[:, 0, 9, 9].tolist() == [25 * digit + 15 for digit in READ]


def test_scores_do_not_depend_on_the_batch_size(scored):
    trained = inverter(DataConfig("svhn", "mnist", str(scored)))
    whole, parts = score_digits(trained).values, score_digits(trained, batch_size=5).values
    losses = {"L_const": pytest.approx(whole["L_const"]), "L_tid": pytest.approx(whole["L_tid"])}
    assert parts == whole | losses


def test_data_dir_stands_in_for_the_one_trained_with(scored):
    trained = inverter(DataConfig("svhn", "mnist", data_dir="/gone"))
    assert score_digits(trained, str(scored)).values["images"] == 12
    with pytest.raises(UserError, match=r"/gone/svhn/test_32x32\.mat: no such file"):
        score_digits(trained)


def test_an_unseen_mat_file_is_scored_in_place_of_the_test_split(tmp_path):
    grays = np.broadcast_to(GRAYS[:3], (32, 32, 3, 3)).copy()
    path = write_mat(tmp_path / "unseen.mat", [10, 1, 3], grays)
    values = score_digits(inverter(DataConfig("svhn", "handwritten-digits")), source_file=path).values
    assert values["images"] == 3 and values["accuracy"] == pytest.approx(2 / 3)
    assert values["per_class_accuracy"] == {"0": 1.0, "1": 1.0, "3": 0.0}
    assert values["paper"] is None, "the paper's numbers are for SVHN → MNIST"


def test_L_tid_is_taken_on_the_split_of_t_that_training_did_not_see(tmp_path):
    path = write_mat(tmp_path / "unseen.mat", [1], np.zeros((32, 32, 3, 1), np.uint8))
    values = {
        split: score_digits(inverter(DataConfig("svhn", "handwritten-digits", target_split=split)), None, path).values
        for split in ("train", "test")
    }
    assert values["train"]["L_tid"] != values["test"]["L_tid"]
    other = score_digits(inverter(DataConfig("handwritten-digits", "handwritten-digits", target_split="test")))
    assert values["test"]["L_tid"] == pytest.approx(other.values["L_tid"])


def test_evaluate_leaves_scores_and_a_figure(call, made, tmp_path):
    code, out, _ = call(f"evaluate {made}/dtn --source-file {made}/unseen.mat --out {tmp_path}/scores")
    printed = json.loads(out)
    written = json.loads((tmp_path / "scores/scores.json").read_text())
    assert code == 0 and printed == written | {"figure": f"{tmp_path}/scores/scores.png"}
    assert written["checkpoint"] == f"{made}/dtn" and written["weights"] == "convert"
    scores = score_digits(load_trained(f"{made}/dtn"), source_file=f"{made}/unseen.mat")
    assert {name: written[name] for name in scores.values} == json.loads(json.dumps(scores.values))
    assert written["images"] == 20 and np.sum(written["confusion"]) == 20
    assert np.asarray(Image.open(tmp_path / "scores/scores.png").convert("L")).std() > 10


def test_evaluate_of_g_scores_other_weights(call, made, tmp_path):
    constants = set()
    for weights in ("g", "convert"):
        _, out, _ = call(f"evaluate {made}/dtn --source-file {made}/unseen.mat --weights {weights} --out {tmp_path}")
        constants.add(json.loads(out)["L_const"])
    assert len(constants) == 2


# Finding and decoding images


RED = (255, 0, 0)
PALETTE = [255, 0, 0, 0, 0, 255]


def image(mode: str, colour) -> Image.Image:
    if mode == "P":
        made = Image.new("P", (40, 40), colour)
        made.putpalette(PALETTE)
        return made
    if mode == "I;16":
        return Image.fromarray(np.full((40, 40), colour, np.uint16))
    return Image.new(mode, (40, 40), colour)


@pytest.mark.parametrize(
    ("mode", "colour", "form", "options", "expected"),
    [
        ("1", 1, "png", {}, (255, 255, 255)),
        ("1", 0, "png", {}, (0, 0, 0)),
        ("L", 100, "png", {}, (100, 100, 100)),
        ("L", 100, "jpeg", {}, (100, 100, 100)),
        ("L", 100, "png", {"transparency": 100}, (255, 255, 255)),
        ("LA", (100, 255), "png", {}, (100, 100, 100)),
        ("LA", (100, 0), "png", {}, (255, 255, 255)),
        ("LA", (0, 51), "png", {}, (204, 204, 204)),
        ("P", 0, "png", {}, RED),
        ("P", 1, "gif", {}, (0, 0, 255)),
        ("P", 1, "png", {"transparency": 0}, (0, 0, 255)),
        ("P", 0, "png", {"transparency": 0}, (255, 255, 255)),
        ("RGB", (10, 20, 30), "png", {}, (10, 20, 30)),
        ("RGB", (10, 20, 30), "webp", {"lossless": True}, (10, 20, 30)),
        ("RGB", (10, 20, 30), "bmp", {}, (10, 20, 30)),
        ("RGB", (10, 20, 30), "png", {"transparency": (10, 20, 30)}, (255, 255, 255)),
        ("RGBA", (*RED, 255), "png", {}, RED),
        ("RGBA", (*RED, 0), "png", {}, (255, 255, 255)),
        ("RGBA", (*RED, 51), "png", {}, (255, 204, 204)),
        ("CMYK", (0, 255, 255, 0), "tiff", {}, RED),
        ("CMYK", (0, 0, 0, 255), "jpeg", {}, (0, 0, 0)),
        ("I;16", 200 * 257, "png", {}, (200, 200, 200)),
        ("I;16", 65535, "tiff", {}, (255, 255, 255)),
    ],
)
def test_images_of_any_mode_become_rgb_on_white(mode, colour, form, options, expected):
    pixels = decode(encode(image(mode, colour), form, **options), 32, 10_000)
    assert pixels.shape == (3, 32, 32) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert abs(pixels.astype(int) - np.array(expected)[:, None, None]).max() <= (2 if form == "jpeg" else 1)


def test_images_are_cropped_to_their_central_square():
    wide = Image.new("RGB", (96, 32), RED)
    wide.paste((0, 0, 255), (32, 0, 64, 32))
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    for picture in (wide, tall):
        pixels = decode(encode(picture), 32, 10_000)
        assert (pixels == np.array([0, 0, 255], np.uint8)[:, None, None]).all()


@pytest.mark.parametrize("size", [16, 32, 64])
def test_images_are_scaled_to_the_size_asked_for(size):
    halves = Image.new("RGB", (50, 50), "white")
    halves.paste((0, 0, 0), (0, 0, 25, 50))
    pixels = decode(encode(halves), size, 10_000)
    assert pixels.shape == (3, size, size)
    assert (pixels[:, :, : size // 4] == 0).all() and (pixels[:, :, -size // 4 :] == 255).all()


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1)])
def test_images_of_one_pixel_a_side_are_images_too(shape):
    assert (decode(encode(Image.new("RGB", shape, RED)), 32, 500)[0] == 255).all()


def test_the_first_frame_of_an_animation_is_taken():
    content = encode(image("P", 0), "gif", save_all=True, append_images=[image("P", 1)])
    assert decode(content, 32, 10_000)[:, 0, 0].tolist() == list(RED)


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "tiff"])
def test_photos_are_turned_upright(form):
    stored = Image.new("RGB", (64, 64), RED)
    stored.paste((0, 0, 255), (0, 32, 64, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # "the 0th row is the visual right-hand side, the 0th column the visual top"
    pixels = decode(encode(stored, form, exif=exif), 32, 10_000).astype(int)
    left, right = pixels[:, :, :12].mean((1, 2)), pixels[:, :, 20:].mean((1, 2))
    np.testing.assert_allclose(left, (0, 0, 255), atol=12)
    np.testing.assert_allclose(right, RED, atol=12)


def png(width: int, height: int) -> bytes:
    """The header of a PNG of that size, without its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"just some text", "not an image of a known format"),
        (b"\x89PNG\r\n\x1a\n", "not an image|damaged"),
        (encode(NOISE, "jpeg")[:2000], "damaged image"),
        (encode(NOISE, "png")[:5000], "damaged image"),
        (encode(NOISE, "webp")[:1000], "damaged image|not an image"),
        (encode(NOISE, "tiff")[:5000], "damaged image|not an image"),
        (png(60, 60), "damaged image"),
        (png(10_000, 10_000), "10000×10000 pixels, more than the limit of 3600"),
    ],
    ids=["empty", "text", "PNG signature", "JPEG cut", "PNG cut", "WebP cut", "TIFF cut", "no pixels", "10^8 pixels"],
)
def test_unreadable_images_are_refused_with_the_reason(content, reason):
    with pytest.raises(ValueError, match=reason):
        decode(content, 32, 3600)


def test_the_limit_on_pixels_is_inclusive_and_told_before_decoding():
    content = encode(Image.new("RGB", (11, 10)))
    assert decode(content, 32, 110).shape == (3, 32, 32)
    with pytest.raises(ValueError, match="11×10 pixels, more than the limit of 109"):
        decode(content, 32, 109)


def test_the_reason_for_refusing_a_giant_image_is_its_size():
    with pytest.raises(ValueError, match="more than the limit of 50000000"):
        decode(png(100_000, 100_000), 32, 50_000_000)


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("tag", [0x0100, 0x011A], ids=["ImageWidth", "XResolution"])
def test_text_where_exif_wants_a_number_stops_nothing(tag, form):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    damaged = exif.tobytes().replace(b"\x01\x0f\x00\x02", struct.pack(">HH", tag, 2))
    survives(encode(NOISE, form, exif=damaged))


def survives(content: bytes) -> None:
    """Decoding gives an image or a ValueError, the two outcomes that a conversion records and goes on from."""
    try:
        assert decode(content, 32, 10_000).shape == (3, 32, 32)
    except ValueError as error:
        assert str(error)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", ["jpeg", "png", "gif", "webp", "bmp", "tiff"])
def test_damaged_bytes_anywhere_stop_nothing(form):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encode(NOISE, form, **({"exif": exif} if form in ("jpeg", "png", "webp", "tiff") else {}))
    random = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(whole)
        for position in random.integers(0, random.choice([64, 400, len(whole)]), 4):
            content[position] = random.integers(256)
        survives(bytes(content))


def test_images_are_found_in_all_folders_below(tmp_path):
    for name in ("b.png", "a/z.JPG", "a/b/c.webp", "a/notes.txt", "c.jpeg.part", "d.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = ["a/b/c.webp", "a/z.JPG", "b.png", "d.tiff"]
    assert list_images(str(tmp_path)) == list_images(f"{tmp_path}/") == found


def test_a_folder_named_like_an_image_is_none(tmp_path):
    (tmp_path / "album.png").mkdir()
    (tmp_path / "album.png/a.png").touch()
    assert list_images(str(tmp_path)) == ["album.png/a.png"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "gone: no such folder or prefix"),
        ("empty", "empty: no images there (0 other entries"),
        ("texts", "texts: no images there (2 other entries"),
        ("texts/a.txt", "a.txt: no such folder or prefix"),
    ],
)
def test_sources_without_images_are_refused(tmp_path, name, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for text in ("a.txt", "b.csv"):
        (tmp_path / "texts" / text).touch()
    with pytest.raises(UserError, match=re.escape(reason)):
        list_images(str(tmp_path / name))


# Converting a batch


@pytest.fixture
def photos(tmp_path) -> Path:
    images, _ = street_digits(2, seed=9)
    contents = {
        "a.png": encode(Image.fromarray(images[0].transpose(1, 2, 0))),
        "sub/b.png": encode(Image.fromarray(images[1].transpose(1, 2, 0))),
        "text.png": b"just some text",
    }
    for name, content in contents.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


def convert_batch(made: Path, photos: Path, keys: list[str]) -> list[dict]:
    job = Conversion(f"{made}/dtn", str(photos), str(photos.parent / "out"), threads=2)
    return Converter(job)(pa.table({"key": keys})).to_pylist()


def test_a_batch_keeps_its_order_and_one_bad_image_stops_nothing(made, photos):
    rows = convert_batch(made, photos, ["text.png", "sub/b.png", "gone.png", "a.png"])
    assert [row["key"] for row in rows] == ["text.png", "sub/b.png", "gone.png", "a.png"]
    assert [row["status"] for row in rows] == ["failed", "converted", "failed", "converted"]
    assert rows[0]["reason"] == "not an image of a known format" and rows[2]["reason"]
    assert [row["output"] for row in rows] == [None, "images/sub/b.png.png", None, "images/a.png.png"]
    assert sorted(path.name for path in (photos.parent / "out").rglob("*.*")) == ["a.png.png", "b.png.png"]


def test_converted_images_are_G_of_their_sources_with_the_distance_in_f(made, photos):
    rows = convert_batch(made, photos, ["a.png", "sub/b.png"])
    dtn = load_trained(f"{made}/dtn").dtn
    images, _ = street_digits(2, seed=9)
    x = torch.tensor(images) / 127.5 - 1
    with torch.no_grad():
        G_x = dtn.G(x)
        scores = (dtn.f(x) - dtn.f(G_x)).norm(dim=1)
    for row, pixels, score in zip(rows, G_x, scores, strict=True):
        written = np.asarray(Image.open(photos.parent / "out" / row["output"])).astype(int)
        assert abs(written - ((pixels[0] + 1) * 127.5).numpy()).max() <= 0.51
        assert row["score"] == pytest.approx(score.item(), rel=1e-3)


def test_an_image_that_cannot_be_written_is_a_failure_with_its_reason(made, photos):
    (photos.parent / "out").mkdir()
    (photos.parent / "out/images").write_text("a file where the folder should be")
    (row,) = convert_batch(made, photos, ["a.png"])
    assert row["status"] == "failed" and row["output"] is None and row["reason"].startswith("cannot write: ")
