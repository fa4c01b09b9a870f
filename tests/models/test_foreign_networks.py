"""Networks as ONNX that others made: what they refer to lies beside them, and what they give is looked at first."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_networks import SIZE, WEIGHTS, content, conv, head, model, node

from dtn_ray import storage
from dtn_ray.checkpoints import checkpoint
from dtn_ray.errors import UserError
from dtn_ray.method.features import FrozenF
from dtn_ray.models.imported import Eye
from dtn_ray.perceptual.load import build_imported, load_imported
from dtn_ray.super_resolution.load import load_super_resolver
from dtn_ray.train.options import Experiment


def beside(folder: Path, change: Callable[[dict[str, str]], Any] | None = None) -> Path:
    """A network whose weights are in w.bin beside it; `change` is given what each tensor says of its place."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "f.onnx"
    network = model([conv(), *head()], opset=18, **WEIGHTS)
    onnx.save(network, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (folder / "f.json").write_text(json.dumps({"size": SIZE}))
    if change:
        network = onnx.load(path, load_external_data=False)
        for tensor in network.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            change(entries)
            del tensor.external_data[:]
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
        path.write_bytes(network.SerializeToString())
    return path


def written(folder: Path, network: onnx.ModelProto, **eye: Any) -> str:
    (folder / "f.onnx").write_bytes(content(network))
    (folder / "f.json").write_text(json.dumps({"size": SIZE} | eye))
    return str(folder / "f.onnx")


def refused(path: str | Path, message: str, load: Callable[[str], Any] = load_imported) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(str(path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1200


# Weights in files beside


@pytest.mark.parametrize("name", ["f.onnx", "./f.onnx", "../{}/f.onnx", "{path}/f.onnx", "file://{path}/f.onnx"])
def test_weights_come_from_beside_the_network_and_not_from_the_current_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_imported(str(beside(tmp_path / "network")))[0]
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "w.bin").write_bytes(bytes((tmp_path / "network/w.bin").stat().st_size))
    here = tmp_path / "network" if "path" not in name else other
    monkeypatch.chdir(here)
    f, facts = load_imported(name.format("network", path=tmp_path / "network"))
    assert f.content == expected.content
    # And the checkpoint has them, wherever it is opened.
    checkpoint.save(tmp_path / "checkpoint", "dtn", Experiment(), {"f": FrozenF(f)}, f=facts)
    kept = (tmp_path / "checkpoint/f.onnx").read_bytes()
    assert len(kept) > sum(np.asarray(each).nbytes for each in WEIGHTS.values())
    (tmp_path / "network/w.bin").unlink()
    monkeypatch.chdir(other)
    assert build_imported(kept, f.eye, "f.onnx").digest == expected.digest


def test_a_network_in_a_checkpoint_that_refers_to_files_is_refused(tmp_path: Path) -> None:
    path = beside(tmp_path)
    refused(
        path,
        r"f\.onnx: not whole: the weights .* are in another file",
        lambda uri: build_imported(Path(uri).read_bytes(), Eye(SIZE), uri),
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda e: e.update(location="../w.bin"), "not a file in its folder"),
        (lambda e: e.update(location="/etc/passwd"), "not a file in its folder"),
        (lambda e: e.update(location="w.bin\0"), "not a file in its folder"),
        (lambda e: e.update(location="x" * 100_000), "not a file in its folder"),
        (lambda e: e.pop("location"), "not a file in its folder|in another file"),
        (lambda e: e.update(offset="-1"), "too short"),
        (lambda e: e.update(length="-8"), "too short"),
        (lambda e: e.update(offset=str(10**30)), "too short"),
        (lambda e: e.update(length=str(1 << 62)), "too short"),
        (lambda e: e.update(offset="9" * 5000), "gives no valid position"),
        (lambda e: e.update(length="many"), "gives no valid position"),
        (lambda e: e.update(length="4"), "cannot reshape"),
    ],
    ids=["up", "absolute", "NUL", "long", "none", "before", "negative", "beyond", "huge", "digits", "text", "few"],
)
def test_a_place_that_is_none_is_refused(change: Callable[[dict[str, str]], Any], problem: str, tmp_path: Path) -> None:
    refused(beside(tmp_path, change), rf"f\.onnx: .*({problem})")


def test_weights_are_not_read_through_a_link_out_of_the_folder(tmp_path: Path) -> None:
    path = beside(tmp_path / "network")
    (tmp_path / "network/w.bin").rename(tmp_path / "w.bin")
    (tmp_path / "network/w.bin").symlink_to("../w.bin")
    refused(path, r"w\.bin, a link that leads out of its folder; copy the file there")
    # As in a store of models, which links both to where it keeps them.
    (tmp_path / "network/f.onnx").rename(tmp_path / "kept.onnx")
    (tmp_path / "network/f.onnx").symlink_to("../kept.onnx")
    assert load_imported(str(path))[0].features == 8


def test_weights_in_what_is_no_file_are_refused(tmp_path: Path) -> None:
    path = beside(tmp_path)
    (tmp_path / "w.bin").unlink()
    os.mkfifo(tmp_path / "w.bin")
    refused(path, r"w\.bin, which is missing|w\.bin: cannot be read: .*[Nn]ot a file")
    (tmp_path / "w.bin").unlink()
    (tmp_path / "w.bin").mkdir()
    refused(path, r"w\.bin: cannot be read: .*directory")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "w.bin").rmdir()
    (tmp_path / "large").rename(tmp_path / "w.bin")
    refused(path, r"w\.bin: larger than 2 GiB")


def test_few_bytes_do_not_become_many_tensors(tmp_path: Path) -> None:
    network = model([conv(), *head()], opset=18, **WEIGHTS)
    side = 1 << 20
    (tmp_path / "w.bin").write_bytes(bytes(side))
    for number in range(100):
        tensor = network.graph.initializer.add(name=f"t{number}", data_type=TensorProto.UINT8, dims=[side])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
    refused(written(tmp_path, network), "the same bytes of w.bin several times")


def test_on_S3_they_are_fetched_from_beside_it_within_the_limit(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(tmp_path)
    for name in ("f.onnx", "f.json", "w.bin"):
        storage.write_bytes(f"{bucket}/n/{name}", (tmp_path / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(bytes(10_000))
    assert load_imported(f"{bucket}/n/f.onnx")[0].features == 8
    monkeypatch.setattr("dtn_ray.checkpoints.onnx_files.LIMIT", (tmp_path / "f.onnx").stat().st_size)
    refused(f"{bucket}/n/f.onnx", rf"^{bucket}/n/w\.bin: larger than 2 GiB")


# What a network gives


def with_end(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    return model([conv(), *head(y="z"), *nodes], opset=13, **WEIGHTS, **constants)


SENSELESS = {
    "NaN": (lambda: with_end(node("Sub", "z z", "o"), node("Div", "o o", "y")), "infinite or NaN"),
    "infinite": (lambda: with_end(node("Mul", "z k", "y"), k=np.array([np.inf], np.float32)), "infinite|not finite"),
    "constant": (
        lambda: with_end(node("Mul", "z k", "m"), node("Add", "m one", "y"), k=[1e-30], one=[1.0]),
        "the same",
    ),
    "zeros": (lambda: with_end(node("Mul", "z k", "y"), k=[0.0]), "the same for every picture"),
    "integers": (
        lambda: with_end(node("Cast", "z", "y", to=TensorProto.INT64)),
        "type torch.int64|cannot be read|same",
    ),
    "booleans": (lambda: with_end(node("Greater", "z k", "y"), k=[0.0]), "type torch.bool|cannot be read|same"),
}


@pytest.mark.parametrize("kind", SENSELESS)
def test_an_f_that_gives_nothing_to_go_by_is_refused(kind: str, tmp_path: Path) -> None:
    make, problem = SENSELESS[kind]
    refused(written(tmp_path, make()), rf"f\.onnx: .*({problem})")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"BGR": True}, "BGR: no such setting; the settings are size, crop, low, high, mean, std, bgr, output"),
        ({"means": [1, 2, 3]}, "means: no such setting"),
        ({"size": 0}, "size: .*greater than or equal to 1"),
        ({"size": 100_000}, "size: .*less than or equal to 1024"),
        ({"size": "32"}, "size: .*valid integer"),
        ({"size": True}, "size: .*valid integer"),
        ({"bgr": "yes"}, "bgr: .*valid boolean"),
        ({"bgr": 1}, "bgr: .*valid boolean"),
        ({"std": [1, 0, 1]}, "std.1: .*greater than 0"),
        ({"mean": [1, 2]}, "mean.2: Field required"),
        ({"crop": [0, 0, 0]}, "crop.2: .*greater than 0"),
        ({"crop": [0, 0, 1e9]}, "crop.2: .*less than or equal to 4"),
        ({"low": float("nan")}, "low: nan is not a finite number"),
        ({"high": float("inf")}, "high: inf is not a finite number"),
        ({"output": 1.5}, "output.*: Input should be"),
    ],
    ids=str,
)
def test_what_a_network_sees_is_refused_where_it_is_misspelt_or_senseless(
    values: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    refused(written(tmp_path, model([conv(), *head()], **WEIGHTS), **values), rf"f\.json: .*{problem}")


@pytest.mark.parametrize("text", ["<html>", "[]", "[" * 5000, '{"size": 32, "size": 64}', "\udcff"])
def test_what_a_network_sees_is_refused_where_it_is_no_json(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, model([conv(), *head()], **WEIGHTS))
    (tmp_path / "f.json").write_bytes(text.encode(errors="surrogateescape"))
    refused(path, r"f\.json: ")


# Memory

LOADS = """
import json, resource, sys
import onnx, dtn_ray.models.onnx_reader, onnx2torch, onnx2fx
from dtn_ray.perceptual.load import load_imported
from dtn_ray.super_resolution.load import load_super_resolver
from dtn_ray.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in json.loads(sys.argv[1]):
    try:
        (load_imported if "/f-" in path else load_super_resolver)(path)
        print("loaded")
    except UserError as error:
        print(error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
SIDE = 20_000
LARGE = {
    "filled": [node("ConstantOfShape", "lengths", "o"), node("ReduceMean", "o", "m"), node("Add", "x m", "e")],
    "repeated": [node("Expand", "x wide", "o"), node("ReduceMean", "o", "m", axes=[4]), node("Add", "x m", "e")],
    "tiled": [node("Tile", "x times", "o"), node("ReduceMean", "o", "m"), node("Add", "x m", "e")],
    "padded": [node("Pad", "x pads", "o"), node("ReduceMean", "o", "m"), node("Add", "x m", "e")],
    "enlarged": [
        node("Resize", "x - scales", "o", mode="nearest"),
        node("ReduceMean", "o", "m"),
        node("Add", "x m", "e"),
    ],
}


def test_small_networks_take_no_large_memory(tmp_path: Path) -> None:
    constants = {
        "lengths": [1, SIDE, SIDE],
        "wide": [1, 3, 1, 1, SIDE * 100],
        "times": [1, 1, 512, 512],
        "pads": [0, 0, 0, 0, 0, 0, SIDE, SIDE],
        "scales": np.array([1, 1, 500, 500], np.float32),
    }
    paths = []
    for kind, nodes in LARGE.items():
        used = {name for each in nodes for name in each.input}
        given = {name: value for name, value in constants.items() if name in used}
        for use in ("f", "sr"):
            rest = [conv("e"), *head()] if use == "f" else [node("Identity", "e", "y")]
            shape = ("N", 3, SIZE, SIZE) if use == "f" else ("N", 3, "H", "W")
            (tmp_path / f"{use}-{kind}").mkdir()
            network = model([*nodes, *rest], shape, **(WEIGHTS if use == "f" else {}), **given)
            paths.append(written(tmp_path / f"{use}-{kind}", network))
    command = [sys.executable, "-c", LOADS, json.dumps(paths)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    for path, error, peak in zip(paths, lines[::2], lines[1::2], strict=True):
        assert error.startswith(path), f"{path}: {error}"
        assert int(peak) < 1_200_000, f"{path}: {int(peak):,} kB more"


def test_a_super_resolver_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    nodes = [node("Sub", "x x", "o"), node("Div", "o o", "y")]
    path = written(tmp_path, model(nodes, ("N", 3, "H", "W")))
    refused(path, "not a super-resolution network: .*not finite", load_super_resolver)


def test_a_network_that_fails_leaves_no_traceback_on_the_console(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes = [node("Concat", "x W", "e", axis=1), conv("e"), *head()]
    path = written(tmp_path, model(nodes, opset=18, **WEIGHTS))
    refused(path, r"f\.onnx: does not take images")
    refused(path, "not a super-resolution network", load_super_resolver)
    assert capfd.readouterr().err == ""


def test_names_in_a_network_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    network = model([conv(), *head()], **WEIGHTS)
    network.graph.node[0].domain = "\x1b[2J\x07"
    refused(written(tmp_path, network), r"f\.onnx: has the operation \\x1b\[2J\\x07's Conv")
