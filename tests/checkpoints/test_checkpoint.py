"""Checkpoints, the storage below them and the configurations inside them: round trips, and every kind of damage."""

import json
import os
import shutil
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from files import SMALL, SMALL_F, write_classifier, write_dtn
from pyarrow import fs
from safetensors.torch import load_file
from torch import nn

from dtn_ray import storage
from dtn_ray.checkpoints import checkpoint
from dtn_ray.errors import UserError
from dtn_ray.method.options import LossConfig
from dtn_ray.perceptual.load import load_classifier
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.settings import fingerprint, from_dict, to_dict
from dtn_ray.train.options import DataConfig, Experiment, ModelConfig
from dtn_ray.train.presets import classifier_of, digits, embedded
from dtn_ray.train.trained import load_trained


def edit_manifest(folder: str, **changes) -> None:
    path = Path(folder, "checkpoint.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def stored(folder: str, name: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder, f"{name}.safetensors"))


def same(network: nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    state = network.state_dict()
    return state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in state)


@pytest.fixture(scope="module")
def dtn_once(tmp_path_factory) -> str:
    return write_dtn(tmp_path_factory.mktemp("dtn"))


@pytest.fixture
def dtn(dtn_once, tmp_path) -> str:
    """The folder of a whole DTN checkpoint, to damage."""
    return str(shutil.copytree(dtn_once, tmp_path / "dtn"))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1


# Round trips


def test_classifier_comes_back_ready_to_use(tmp_path, x):
    uri, network = write_classifier(tmp_path / "f")
    loaded, manifest = load_classifier(uri)
    assert not loaded.training
    torch.testing.assert_close(loaded(x), network.eval()(x))
    assert from_dict(Pretraining, manifest["config"]) == SMALL_F
    assert manifest["step"] == 7 and manifest["metrics"] == {"test_error": 0.25}
    assert manifest["networks"] == {"classifier": checkpoint.digest(loaded)}


def test_digest_changes_with_any_weight(tmp_path):
    _, network = write_classifier(tmp_path)
    before = checkpoint.digest(network)
    with torch.no_grad():
        network.classifier[2].bias[3] += 1e-6
    assert checkpoint.digest(network) != before


@pytest.mark.parametrize(("weights", "name"), [("convert", "g_convert"), ("g", "g")])
def test_dtn_comes_back_with_the_chosen_g(dtn, weights, name):
    trained = load_trained(dtn, weights)
    assert trained.experiment == SMALL and trained.manifest["step"] == 12
    assert same(trained.dtn.g, stored(dtn, name))
    assert same(trained.judge, stored(dtn, "judge"))
    assert not trained.dtn.training and not trained.dtn.g.training and not trained.judge.training


def test_f_comes_back_with_its_scale(dtn, x):
    f = load_trained(dtn).dtn.f
    assert f.scale.item() == 2.5
    torch.testing.assert_close(f(x), f.network.represent(x) / 2.5)


def test_G_of_a_loaded_dtn_is_g_after_f(dtn, x):
    loaded = load_trained(dtn).dtn
    G_x = loaded.G(x)
    assert G_x.shape == (4, 1, 32, 32) and G_x.abs().max() <= 1
    torch.testing.assert_close(G_x, loaded.g(loaded.f(x)))


def test_dtn_without_a_judge_comes_back_without_one(tmp_path):
    assert load_trained(write_dtn(tmp_path, judge=False)).judge is None


@pytest.mark.parametrize(
    "changes",
    [
        {"model": replace(SMALL.model, with_f=False, width_f=0.05)},
        {"model": replace(SMALL.model, binary=True), "loss": LossConfig(beta=0)},
        {"loss": LossConfig(d2="gan")},
        {"data": replace(SMALL.data, target="svhn")},
    ],
    ids=["G without f", "baseline", "second GAN", "t in colour"],
)
def test_every_variant_of_the_dtn_round_trips(tmp_path, changes, x):
    experiment = replace(SMALL, **changes)
    trained = load_trained(write_dtn(tmp_path, experiment))
    assert trained.experiment == experiment
    G_x = trained.dtn.G(x)
    assert G_x.shape == (4, 3 if experiment.data.target == "svhn" else 1, 32, 32)
    assert trained.dtn.D(G_x).shape == (4, 1 if experiment.model.binary else 3)
    assert (trained.dtn.D2 is not None) == (experiment.loss.d2 == "gan")


def test_folder_of_a_finished_run_stands_for_its_checkpoint(tmp_path):
    write_dtn(tmp_path / "checkpoint_1", replace(SMALL, seed=1))
    write_dtn(tmp_path / "checkpoint_2", replace(SMALL, seed=2))
    (tmp_path / "result.json").write_text(json.dumps({"checkpoint": "checkpoint_1", "metrics": {}}))
    assert load_trained(str(tmp_path)).experiment.seed == 1


def test_optimizers_come_back_with_their_state(tmp_path):
    def optimizer(steps: int) -> torch.optim.Optimizer:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(3))
        adam = torch.optim.Adam([weight], lr=0.1)
        for _ in range(steps):
            weight.square().sum().backward()
            adam.step()
        return adam

    trained, fresh = optimizer(2), optimizer(0)
    checkpoint.save_optimizers(tmp_path, {"g": trained})
    checkpoint.load_optimizers(tmp_path, {"g": fresh})
    before, after = trained.state_dict()["state"][0], fresh.state_dict()["state"][0]
    assert after["step"] == 2
    torch.testing.assert_close(after, before)


# Damage


class MakesFolder:
    """Pickles to a call of os.mkdir: what a malicious file would do, harmlessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_object_among_the_optimizers_is_refused_and_not_run(tmp_path):
    torch.save({"g": MakesFolder(tmp_path / "made")}, tmp_path / "optimizers.pt")
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    with pytest.raises(UserError, match=r"optimizers\.pt: cannot resume from it.*Weights only load failed"):
        checkpoint.load_optimizers(tmp_path, {"g": adam})
    assert not (tmp_path / "made").exists()


def test_checkpoint_cut_short_while_it_is_written_has_no_manifest(tmp_path):
    layer = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="share memory"):
        checkpoint.save(tmp_path, "classifier", SMALL_F, {"classifier": nn.Sequential(layer, layer)})
    with pytest.raises(UserError, match="no checkpoint here"):
        load_classifier(str(tmp_path))


def test_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}: no checkpoint here \(neither checkpoint.json nor.*result.json"):
        load_trained(str(tmp_path))


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/gone: no checkpoint here"):
        load_classifier(str(tmp_path / "gone"))


def test_missing_manifest_beside_whole_weights_is_refused(dtn):
    Path(dtn, "checkpoint.json").unlink()
    with pytest.raises(UserError, match=f"{dtn}: no checkpoint here"):
        load_trained(dtn)


def test_classifier_in_place_of_a_dtn_is_refused(tmp_path):
    uri, _ = write_classifier(tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path}: .*kind 'classifier', .*jobs/train\.py \(kind 'dtn'\) is needed"):
        load_trained(uri)


def test_dtn_in_place_of_a_classifier_is_refused(dtn):
    with pytest.raises(UserError, match=rf"{dtn}: .*kind 'dtn', .*jobs/pretrain\.py .*is needed"):
        load_classifier(dtn)


def test_checkpoint_of_a_newer_format_is_refused(dtn):
    edit_manifest(dtn, format=2)
    with pytest.raises(UserError, match=rf"{dtn}: checkpoint format 2, this version of dtn-ray reads format 1"):
        load_trained(dtn)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"kind": "dtn"}', '{"kind": "dtn", "format": 1}', "\udcff"],
    ids=["empty", "cut", "list", "null", "nothing in it", "no format", "no config", "not text"],
)
def test_damaged_manifest_is_refused(dtn, content):
    Path(dtn, "checkpoint.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=dtn):
        load_trained(dtn)


@pytest.mark.parametrize(
    "changes",
    [{"config": {"seed": "many"}}, {"config": []}, {"f": {"width": "wide"}}, {"f": None}, {"judge": {"width": []}}],
    ids=str,
)
def test_unusable_settings_in_a_manifest_are_refused(dtn, changes):
    edit_manifest(dtn, **changes)
    with pytest.raises(UserError, match=dtn):
        load_trained(dtn)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"], ids=["empty", "cut", "list", "nothing in it"])
def test_damaged_result_of_a_run_is_refused(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=rf"{tmp_path}.*result\.json"):
        load_trained(str(tmp_path))


def test_result_that_names_a_deleted_checkpoint_is_refused(tmp_path):
    (tmp_path / "result.json").write_text('{"checkpoint": "checkpoint_9", "metrics": {}}')
    with pytest.raises(UserError, match=f"{tmp_path}/checkpoint_9"):
        load_trained(str(tmp_path))


@pytest.mark.parametrize("name", ["f", "g_convert", "judge"])
@pytest.mark.parametrize("share", [0, 0.0001, 0.5, 0.999])
def test_truncated_weights_are_refused(dtn, name, share):
    path = Path(dtn, f"{name}.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=f"{path}: missing, damaged, or the weights of another network"):
        load_trained(dtn)


def test_text_in_place_of_weights_is_refused(dtn):
    path = Path(dtn, "f.safetensors")
    path.write_text("<html>404: not found</html>" * 100)
    with pytest.raises(UserError, match=f"{path}: missing, damaged"):
        load_trained(dtn)


def test_missing_weights_are_refused(dtn):
    path = Path(dtn, "g_convert.safetensors")
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: missing, damaged"):
        load_trained(dtn)


def test_weights_of_another_width_are_refused_with_the_sizes(tmp_path):
    path = Path(write_classifier(tmp_path / "wide", replace(SMALL_F, width=0.1))[0], "classifier.safetensors")
    uri, _ = write_classifier(tmp_path / "f")
    mixed = path.rename(Path(uri, "classifier.safetensors"))
    with pytest.raises(UserError, match=f"{mixed}: missing, damaged, or the weights of another network") as caught:
        load_classifier(uri)
    assert "size mismatch" in str(caught.value)


# Storage


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_local_uris_resolve_to_absolute_paths(tmp_path, scheme):
    filesystem, path = storage.resolve(f"{scheme}{tmp_path}/runs/")
    assert isinstance(filesystem, fs.LocalFileSystem) and path == str(tmp_path / "runs")


def test_relative_and_home_paths_resolve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.resolve("runs")[1] == str(tmp_path / "runs")
    assert storage.resolve("~/runs")[1] == "/home/someone/runs"


@pytest.mark.parametrize("uri", ["s3://bucket/some/prefix", "s3://bucket/some/prefix/"])
def test_s3_uris_resolve_to_bucket_and_key(uri):
    filesystem, path = storage.resolve(uri)
    assert filesystem.type_name == "py::s3" and path == "bucket/some/prefix"


@pytest.mark.parametrize("uri", ["gs://bucket/x", "https://host/x.mat", "s3x://bucket/x"])
def test_unknown_schemes_are_refused(uri):
    with pytest.raises(UserError, match=f"{uri}: unknown scheme; give a local path or s3://"):
        storage.resolve(uri)


@pytest.mark.parametrize(
    ("uri", "joined"),
    [("runs", "runs/a/b"), ("/runs/", "/runs/a/b"), ("s3://bucket", "s3://bucket/a/b"), ("s3://b/p/", "s3://b/p/a/b")],
)
def test_join_appends_to_paths_and_uris(uri, joined):
    assert storage.join(uri, "a", "b") == joined


def test_written_files_are_read_back_whole_and_leave_nothing_beside_them(tmp_path):
    uri = str(tmp_path / "new/folders/file")
    for content in (b"first, and longer", b"second", b""):
        storage.write_bytes(uri, content)
        assert storage.read_bytes(uri) == content
    assert os.listdir(tmp_path / "new/folders") == ["file"]


def test_what_is_there_and_what_is_not(tmp_path):
    (tmp_path / "file").touch()
    there = {name: str(tmp_path / name) for name in ("", "file", "gone")}
    assert {name for name, uri in there.items() if storage.is_folder(uri)} == {""}
    assert {name for name, uri in there.items() if storage.is_file(uri)} == {"file"}
    assert storage.exists(str(tmp_path)) and not storage.exists(str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(str(tmp_path / "gone"))


def test_folders_are_copied_with_all_below_them(tmp_path):
    for name in ("a", "sub/b", "sub/sub/c"):
        storage.write_bytes(str(tmp_path / "from" / name), name.encode())
    storage.copy_folder(str(tmp_path / "from"), str(tmp_path / "new/to"))
    copied = {str(path.relative_to(tmp_path / "new/to")) for path in (tmp_path / "new/to").rglob("*") if path.is_file()}
    assert copied == {"a", "sub/b", "sub/sub/c"}
    assert (tmp_path / "new/to/sub/sub/c").read_bytes() == b"sub/sub/c"


# Configurations


def leaves(cls: type, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all settings in a configuration class, those of nested classes included."""
    found = []
    for name, kind in get_type_hints(cls).items():
        found += leaves(kind, (*prefix, name)) if is_dataclass(kind) else [(*prefix, name)]
    return found


def another(kind: Any, value: Any) -> Any:
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 + 0.05  # stays a probability
    if isinstance(value, int):
        return value + 1
    if isinstance(value, tuple):
        return (*value, 7) if get_args(kind)[-1] is Ellipsis else tuple(other + 1 for other in value)
    return f"{value or ''}x"


def changed(config: Any, path: tuple[str, ...]) -> Any:
    """The configuration with one setting changed."""
    name, *rest = path
    value = getattr(config, name)
    new = changed(value, tuple(rest)) if rest else another(get_type_hints(type(config))[name], value)
    return replace(config, **{name: new})


SETTINGS = [(config, path) for config in (embedded(), Pretraining()) for path in leaves(type(config))]
NAMES = [f"{type(config).__name__}.{'.'.join(path)}" for config, path in SETTINGS]


def test_every_setting_is_among_those_tested():
    def count(values: Any) -> int:
        return sum(map(count, values.values())) if isinstance(values, dict) else 1

    assert {"Experiment.loss.alpha", "Experiment.data.augment_s.invert", "Pretraining.augment.scale"} <= {*NAMES}
    assert len({*NAMES}) == count(to_dict(embedded())) + count(to_dict(Pretraining()))


@pytest.mark.parametrize(("config", "path"), SETTINGS, ids=NAMES)
def test_fingerprint_changes_with_the_setting_and_json_keeps_it(config, path):
    other = changed(config, path)
    assert fingerprint(other) != fingerprint(config)
    assert from_dict(type(config), json.loads(json.dumps(to_dict(other)))) == other


@pytest.mark.parametrize(
    "config", [embedded(), digits(), Pretraining(), SMALL], ids=["embedded", "digits", "f", "small"]
)
def test_fingerprint_survives_the_way_through_json(config):
    back = from_dict(type(config), json.loads(json.dumps(to_dict(config))))
    assert back == config and fingerprint(back) == fingerprint(config)
    assert len(fingerprint(config)) == 8 and int(fingerprint(config), 16) >= 0


def test_fingerprint_does_not_tell_15_from_15_0():
    assert fingerprint(LossConfig(alpha=15)) == fingerprint(LossConfig(alpha=15.0))


@pytest.mark.parametrize(
    ("cls", "values", "problem"),
    [
        (Experiment, {"loss": {"alpha": "large"}}, "not a valid Experiment: loss.alpha: .*valid number"),
        (Experiment, {"loss": {"d": "l7"}}, "not a valid Experiment: loss.d: .*'mse'"),
        (Experiment, {"seed": None}, "not a valid Experiment: seed: .*valid integer"),
        (Experiment, {"data": {"s_without": 3}}, "not a valid Experiment: data.s_without: "),
        (Experiment, {"loss": {"alfa": 15}}, "not a valid Experiment: loss.alfa: "),
        (Experiment, {"lambda": 1}, "not a valid Experiment: lambda: "),
        (Pretraining, {"width": "x", "epochs": "y"}, "width: .*; epochs: "),
        (Pretraining, {"augment": {"rotate": 3}}, "augment.rotate: "),
    ],
    ids=["text", "choice", "null", "tuple", "unknown nested", "unknown", "two", "unknown in augment"],
)
def test_settings_that_do_not_fit_are_named(cls, values, problem):
    with pytest.raises(UserError, match=problem):
        from_dict(cls, values)


def test_f_sees_inverted_colours_and_leaves_its_classes_out_but_the_judge_does_not():
    data = DataConfig(source="svhn", target="mnist", data_dir="d", source_split="train", f_without=(5,))
    f = classifier_of("svhn", data, ModelConfig(width_f=0.5), seed=3, images=7000, judge=False)
    judge = classifier_of("mnist", data, ModelConfig(width_f=0.5), seed=3, images=7000, judge=True)
    assert (f.dataset, f.split, f.without, f.augment.invert) == ("svhn", "train", (5,), 0.5)
    assert (judge.dataset, judge.split, judge.without, judge.augment.invert) == ("mnist", "train", (), 0)
    assert (f.width, f.seed, f.data_dir) == (judge.width, judge.seed, judge.data_dir) == (0.5, 3, "d")
