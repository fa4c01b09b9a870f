"""Checkpoints that others made or damaged: weights are what their manifest says, and nothing else is used."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from files import LOAD, SMALL, write_classifier, write_dtn, write_face_network, write_faces_dtn
from safetensors.torch import load_file, save_file
from torch import nn

from dtn_ray import storage
from dtn_ray.checkpoints import checkpoint
from dtn_ray.errors import UserError
from dtn_ray.models.srcnn import SRCNN
from dtn_ray.perceptual.load import build_deepface, load_classifier, load_imported
from dtn_ray.perceptual.options import FacePretraining
from dtn_ray.resumable.run import earlier
from dtn_ray.super_resolution.options import SuperResolution
from dtn_ray.train.trained import load_trained

ONCE = {
    "dtn": ("f", "g_convert", "D", "judge"),
    "faces": ("f", "g_convert", "D"),
    "classifier": ("classifier",),
    "face_network": ("face_network",),
    "srcnn": ("srcnn",),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_dtn(folder / "dtn")
    write_faces_dtn(folder / "faces", write_face_network(folder / "networks/f.onnx", seed=0))
    write_classifier(folder / "classifier")
    torch.manual_seed(3)
    people = FacePretraining("faces", width=0.05, features=8)
    deepface = build_deepface(people, 5)
    checkpoint.save(folder / "face_network", "face_network", people, {"face_network": deepface}, people=5, step=1)
    checkpoint.save(folder / "srcnn", "super_resolution", SuperResolution("images"), {"srcnn": SRCNN()}, step=1)
    return folder


@pytest.fixture
def copy(originals: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: shutil.copytree(originals / kind, tmp_path / kind)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "checkpoint.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def refused(kind: str, folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        LOAD[kind](str(folder))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1200


# Weights


@pytest.mark.parametrize("kind", ONCE)
def test_whole_checkpoints_load_with_weights_in_memory(kind: str, originals: Path) -> None:
    loaded = LOAD[kind](str(originals / kind))
    network = loaded.dtn if kind in ("dtn", "faces") else loaded[0] if isinstance(loaded, tuple) else loaded.network
    assert {value.device.type for value in network.state_dict().values()} == {"cpu"}
    assert not any(each.is_meta for each in (*network.parameters(), *network.buffers()))
    if kind in ("dtn", "faces"):
        assert checkpoint.digest(loaded.dtn.f) == loaded.manifest["networks"]["f"]
        assert not any(weight.requires_grad for weight in loaded.dtn.f.parameters())
        assert all(weight.requires_grad for weight in loaded.dtn.g.parameters())


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in ONCE.items() for name in names])
def test_one_flipped_bit_of_any_network_is_refused_with_the_files_name(
    kind: str, name: str, copy: Callable[[str], Path]
) -> None:
    folder = copy(kind)
    path = folder / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-4] ^= 1  # the least bit of a number
    path.write_bytes(content)
    refused(kind, folder, rf"^{path}: .*SHA-256 [0-9a-f]{{64}}, but checkpoint.json says [0-9a-f]{{64}}")


def test_weights_of_another_step_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("dtn")
    shutil.copy(folder / "g.safetensors", folder / "g_convert.safetensors")  # both fit the network
    refused("dtn", folder, r"g_convert\.safetensors: .*SHA-256")
    assert load_trained(str(folder), "g").dtn.g is not None


def test_another_network_in_place_of_f_is_refused(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("faces")
    other = write_face_network(tmp_path / "other.onnx", seed=1)
    shutil.copy(other, folder / "f.onnx")
    refused("faces", folder, r"f\.onnx: not the network that this was trained with: its SHA-256 is")
    (folder / "f.onnx").unlink()
    refused("faces", folder, r"f\.onnx: cannot be read")


def test_a_manifest_without_a_digest_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("dtn")
    edit(folder, lambda manifest: manifest["networks"].pop("g_convert"))
    refused("dtn", folder, r"checkpoint\.json: networks: no SHA-256 of g_convert")


def test_D_may_be_left_out_of_a_copy(copy: Callable[[str], Path]) -> None:
    folder = copy("dtn")
    for name in ("D", "g"):
        (folder / f"{name}.safetensors").unlink()
    trained = load_trained(str(folder))
    x = torch.rand(2, 3, 32, 32)
    assert trained.dtn.to(memory_format=torch.channels_last).G(x).shape == (2, 1, 32, 32)


def resave(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Other weights, with the SHA-256 that goes with them: what a malicious author would do."""
    path = folder / f"{name}.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    holder = nn.Module()
    holder.state_dict = lambda: state  # type: ignore[method-assign,assignment]
    edit(folder, lambda manifest: manifest["networks"].update({name: checkpoint.digest(holder)}))
    return path


def test_weights_that_are_not_finite_are_refused(copy: Callable[[str], Path]) -> None:
    for value in (float("nan"), float("inf")):
        folder = copy("classifier")
        resave(folder, "classifier", lambda state, value=value: state["layers.0.bias"].fill_(value))
        refused("classifier", folder, r"classifier\.safetensors: .*layers\.0\.bias has values that are not finite")
        shutil.rmtree(folder)


def test_a_classifier_that_gives_the_same_for_every_picture_is_refused(copy: Callable[[str], Path]) -> None:
    for kind, name in (("classifier", "classifier"), ("face_network", "face_network")):
        folder = copy(kind)
        resave(folder, name, lambda state: [value.zero_() for value in state.values()])
        refused(kind, folder, f"^{folder}: its features are the same for every picture")


@pytest.mark.parametrize("change", ["half", "integers", "more", "fewer", "renamed", "other shape"])
def test_weights_of_another_type_or_shape_are_refused_by_their_header(change: str, copy: Callable[[str], Path]) -> None:
    folder, bias = copy("classifier"), "layers.0.bias"

    def apply(state: dict[str, torch.Tensor]) -> None:
        if change == "half":
            state[bias] = state[bias].half()
        elif change == "integers":
            state[bias] = state[bias].view(torch.int32)
        elif change == "more":
            state["layers.0.other"] = torch.zeros(3)
        elif change == "other shape":
            state[bias] = state[bias][:, None]
        else:
            value = state.pop(bias)
            if change == "renamed":
                state["layers.0.\x1b[2J"] = value

    path = resave(folder, "classifier", apply)
    problem = {
        "half": f"{bias} is of type F16 and should be F32",
        "integers": f"{bias} is of type I32 and should be F32",
        "more": "has layers.0.other",
        "other shape": f"size mismatch: {bias} is 3×1 and should be 3",
    }
    refused(
        "classifier",
        folder,
        rf"^{path}: missing, damaged, or the weights of another network \({problem.get(change, 'lacks')}",
    )


def test_a_header_that_claims_more_than_its_file_has_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("classifier")
    path = folder / "classifier.safetensors"
    whole = path.read_bytes()
    for length in (len(whole), 1 << 30, (1 << 64) - 1):
        path.write_bytes(struct.pack("<Q", length) + whole[8:])
        refused("classifier", folder, r"classifier\.safetensors: .*header would have")
    with path.open("r+b") as file:
        file.truncate(5 << 30)
    refused("classifier", folder, r"5,368,709,120 bytes; a network may have 4,294,967,296")
    path.unlink()
    os.mkfifo(path)
    refused("classifier", folder, "not a file")


def test_an_imported_f_of_a_former_version_keeps_its_weights_in_the_file(copy: Callable[[str], Path]) -> None:
    folder = copy("faces")

    def as_formerly(state: dict[str, torch.Tensor]) -> None:
        del state["network._extra_state"]
        state["network.network.initializers.weight"] = torch.ones(16, 3, 8, 8)

    resave(folder, "f", as_formerly)
    assert load_trained(str(folder)).dtn.f.scale == 2.5


# Manifests


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        for name in path[:-1]:
            manifest = manifest[name]
        manifest[path[-1]] = to

    return change


MANIFESTS: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "no networks": ("dtn", lambda m: m.pop("networks"), r"networks: Field required"),
    "no SHA-256": ("dtn", _set("networks", "f", to="x"), r"networks.f: .*pattern"),
    "no preprocessing": ("dtn", lambda m: m.pop("preprocessing"), r"preprocessing: Field required"),
    "another size": (
        "dtn",
        _set("preprocessing", "size", to=30_000),
        r"preprocessing: size is 30000, but 32 by its config",
    ),
    "no size": ("dtn", lambda m: m["preprocessing"].pop("size"), r"preprocessing: size is None"),
    "huge faces": ("faces", _set("config", "data", "size", to=30_000), r"config: .*data.size: .*2048"),
    "other faces": ("faces", _set("config", "data", "size", to=48), r"preprocessing: size is 24, but 48 by its config"),
    "wide g": ("dtn", _set("config", "model", "width_g", to=20), r"config: .*model.width_g: .*less than or equal to 8"),
    "wider g": ("dtn", _set("config", "model", "width_g", to=4), r"g_convert.safetensors: .*size mismatch"),
    "NaN": (
        "dtn",
        _set("config", "model", "width_g", to=float("nan")),
        r"config: .*width_g: nan is not a finite number",
    ),
    "infinite": ("dtn", _set("f", "width", to=float("inf")), r"f: .*width: inf is not a finite number"),
    "dropout": ("dtn", _set("judge", "dropout", to=7), r"judge: .*dropout: .*less than or equal to 1"),
    "no such target": (
        "dtn",
        _set("config", "data", "target", to="imagenet"),
        r"config: --target imagenet: not a dataset",
    ),
    "no such setting": ("dtn", _set("config", "loss", "delta", to=1), r"config: .*loss.delta: no such setting"),
    "kind of f": ("dtn", _set("config", "model", "kind", to="faces"), r"checkpoint.json: "),
    "no judge": ("dtn", _set("judge", to=3), r"judge: "),
    "no eye": ("faces", lambda m: m["f"].pop("eye"), r"f.eye: not the preprocessing of a network"),
    "NaN eye": ("faces", _set("f", "eye", "low", to=float("nan")), r"f.eye: .*low: nan"),
    "huge eye": ("faces", _set("f", "eye", "size", to=100_000), r"f.eye: .*size: .*1024"),
    "other f": ("faces", _set("f", "sha256", to="0" * 64), r"f.onnx: not the network .* but checkpoint.json says 000"),
    "no f": ("faces", lambda m: m.pop("f"), r"f: missing"),
    "f is a text": ("faces", _set("f", to="x"), r"f: missing"),
    "many people": ("face_network", _set("people", to=10**9), r"people: .*less than or equal to"),
    "more people": ("face_network", _set("people", to=10**7), r"face_network.safetensors: .*size mismatch"),
    "no people": ("face_network", _set("people", to=-1), r"people: .*greater than or equal to 0"),
    "features": ("face_network", _set("config", "features", to=10**9), r"config: .*features: .*less than"),
    "width": ("face_network", _set("config", "width", to=1e308), r"config: .*width: .*less than or equal to 8"),
    "middle": ("srcnn", _set("config", "middle", to=7), r"config: .*middle: "),
    "factors": ("srcnn", _set("config", "factors", to=[2, 0]), r"config: .*factors.1: "),
    "kind": ("srcnn", _set("kind", to="x" * 10_000), r"kind: .*at most 80"),
    "format": ("srcnn", _set("format", to=True), r"format: missing, or not a number"),
    "steps": ("srcnn", _set("step", to="many"), r"step: .*valid integer"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_is_not_believed(case: str, copy: Callable[[str], Path]) -> None:
    kind, change, problem = MANIFESTS[case]
    folder = copy(kind)
    edit(folder, change)
    refused(kind, folder, f"^{folder}.*{problem}")


def test_other_fields_of_a_manifest_pass(copy: Callable[[str], Path]) -> None:
    folder = copy("dtn")
    edit(folder, lambda manifest: manifest.update(L_d=float("nan"), of_a_later_version={"a": [1]}))
    assert load_trained(str(folder)).experiment == SMALL


LOADS = """
import json, resource, sys
from dtn_ray.errors import UserError
from dtn_ray.perceptual.load import load_classifier, load_face_network
from dtn_ray.super_resolution.load import load_srcnn
from dtn_ray.train.trained import load_trained
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for load, folder in json.loads(sys.argv[1]):
    try:
        globals()[load](folder)
    except UserError as error:
        print(error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
HUNGRY = {
    "width_g 8": ("load_trained", "dtn", _set("config", "model", "width_g", to=8)),
    "width_g 20": ("load_trained", "dtn", _set("config", "model", "width_g", to=20)),
    "width_g 50": ("load_trained", "dtn", _set("config", "model", "width_g", to=50)),
    "width_D 8": ("load_trained", "faces", _set("config", "model", "width_D", to=8)),
    "size_D 2048": ("load_trained", "faces", _set("config", "model", "size_D", to=2048)),
    "width_f 8": ("load_trained", "dtn", _set("f", "width", to=8)),
    "size 30000": ("load_trained", "faces", _set("config", "data", "size", to=30_000)),
    "DeepFace 8 times as wide": ("load_face_network", "face_network", _set("config", "width", to=8)),
    "16 million people": ("load_face_network", "face_network", _set("people", to=1 << 24)),
}


def test_what_does_not_fit_its_weights_takes_no_memory(originals: Path, tmp_path: Path) -> None:
    folders = [shutil.copytree(originals / kind, tmp_path / f"{i}") for i, (_, kind, _) in enumerate(HUNGRY.values())]
    for folder, (_, _, change) in zip(folders, HUNGRY.values(), strict=True):
        edit(folder, change)
    calls = [(load, str(folder)) for folder, (load, _, _) in zip(folders, HUNGRY.values(), strict=True)]
    command = [sys.executable, "-c", LOADS, json.dumps(calls)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    for case, folder, error, peak in zip(HUNGRY, folders, lines[::2], lines[1::2], strict=True):
        assert error.startswith(f"{folder}/"), f"{case}: {error}"
        assert int(peak) < 100_000, f"{case}: {int(peak):,} kB more"


# Runs


def run_of(folder: Path, checkpoint_name: Any, **others: Any) -> Path:
    write_classifier(folder / "run/checkpoint_1")
    (folder / "run/result.json").write_text(json.dumps({"checkpoint": checkpoint_name, "metrics": {}} | others))
    return folder / "run"


def test_a_run_that_was_moved_is_still_opened(tmp_path: Path) -> None:
    run = run_of(tmp_path, "checkpoint_1").rename(tmp_path / "moved")
    assert load_classifier(str(run))[1]["step"] == 7
    (tmp_path / "link").symlink_to(run)
    assert load_classifier(f"{tmp_path}/link/")[1]["step"] == 7


@pytest.mark.parametrize(
    "name",
    [
        "../other",
        "{tmp}/other",
        "checkpoint_1/../../other",
        "",
        ".",
        "a//b",
        "s3://b/c",
        "file:///x",
        "a\0b",
        "é" * 5000,
        3,
    ],
)
def test_a_result_leads_to_no_folder_outside_of_its_run(name: Any, tmp_path: Path) -> None:
    write_classifier(tmp_path / "other")
    name = name.format(tmp=tmp_path) if isinstance(name, str) else name
    run = run_of(tmp_path, name)
    with pytest.raises(UserError, match=rf"^{run}/result\.json: checkpoint: ") as caught:
        load_classifier(str(run))
    assert "\n" not in str(caught.value)
    (run / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match=r"result\.json: checkpoint: .*; delete it, and the same command continues"):
        earlier(str(run), {})


def test_a_result_leads_through_no_link_out_of_its_run(tmp_path: Path) -> None:
    write_classifier(tmp_path / "other")
    run = run_of(tmp_path, "linked")
    (run / "linked").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match=r"result\.json: checkpoint: 'linked' is not a folder inside the run's folder"):
        load_classifier(str(run))
    (run / "result.json").write_text('{"checkpoint": "inner", "metrics": {}}')
    (run / "inner").symlink_to("checkpoint_1")
    assert load_classifier(str(run))[1]["step"] == 7


@pytest.mark.parametrize("content", ["<html>", "{}", '{"checkpoint": "x"}', "[" * 10_000, "null"], ids=lambda c: c[:20])
def test_damaged_records_of_a_run_are_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_text("{}")
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=rf"^{tmp_path}/result\.json: .*delete it, and the same command continues"):
        earlier(str(tmp_path), {})
    (tmp_path / "experiment.json").write_text(content)
    identity = {"kind": "x" * 100_000}
    with pytest.raises(UserError, match=rf"^{tmp_path}.* choose another --name, or delete it") as caught:
        earlier(str(tmp_path), identity)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_checkpoint_on_S3_is_named_by_its_uri_and_only_its_networks_are_fetched(
    originals: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{bucket}/dtn"
    storage.copy_folder(str(originals / "dtn"), uri)
    storage.write_bytes(f"{uri}/optimizers.pt", b"x")
    storage.write_bytes(f"{uri}/sub/other.safetensors", b"x")
    with checkpoint.open_folder(f"{uri}/") as folder:
        assert {path.name for path in folder.iterdir()} == {path.name for path in (originals / "dtn").iterdir()}
    assert load_trained(uri).experiment == SMALL
    storage.write_bytes(f"{uri}/g_convert.safetensors", storage.read_bytes(f"{uri}/g.safetensors"))
    with pytest.raises(UserError, match=rf"^{uri}/g_convert\.safetensors: .*SHA-256"):
        load_trained(uri)
    monkeypatch.setattr("dtn_ray.checkpoints.weights.LARGEST", 1000)
    with pytest.raises(UserError, match=rf"^{uri}/f\.safetensors: .* bytes; it may have 1,000"):
        load_trained(uri)


# Command lines


COMMANDS = {
    "convert": "convert {dtn} {source} {out}",
    "evaluate": "evaluate {dtn} --source-file {source}/x.mat",
    "train from best.json": "train {best}",
    "train from a judge": "train --judge {judge}",
    "retrieval": "evaluate retrieval {faces} --probes {source} --distractors {source} --judge {source}/n.onnx",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_lines_end_with_one_line_and_exit_code_2(
    command: str, copy: Callable[[str], Path], tmp_path: Path, call: Callable[[str], tuple[int, str, str]]
) -> None:
    kinds = {"dtn": copy("dtn"), "judge": copy("classifier"), "faces": copy("faces")}
    for folder in kinds.values():
        path = next(folder.glob("[cgf]*.safetensors"))
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    (tmp_path / "best.json").write_text("<html>")
    source = tmp_path / "source"
    source.mkdir()
    line = COMMANDS[command].format(**kinds, source=source, out=tmp_path / "out", best=tmp_path / "best.json")
    code, _, err = call(line)
    lines = [each for each in err.splitlines() if "Warning" not in each]
    assert code == 2, err
    assert lines[-1].startswith("error: ") and "Traceback" not in err, err


def test_the_eye_of_a_known_network_needs_no_file(tmp_path: Path) -> None:
    path = Path(write_face_network(tmp_path / "f.onnx", seed=0))
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"f\.json: missing; it must describe how the network beside it expects"):
        load_imported(str(path))
