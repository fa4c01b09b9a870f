"""Mutated checkpoints, manifests and networks: each loads or is refused with one line, in bounded memory.

CASES of each kind, always the same: bytes flipped, files cut, values of JSON exchanged, headers and fields of ONNX
edited. They run in one process of their own, which tells each case's outcome and its peak memory.
"""

import copy
import io
import json
import random
import resource
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from files import LOAD, write_classifier, write_dtn, write_face_network, write_faces_dtn
from mutations import cut, flip, outcomes_of
from onnx_networks import SIZE, STYLES, content

from dtn_ray.checkpoints import checkpoint, optimizer_states
from dtn_ray.errors import UserError
from dtn_ray.models.srcnn import SRCNN
from dtn_ray.perceptual.load import build_deepface, load_classifier, load_imported
from dtn_ray.perceptual.options import FacePretraining
from dtn_ray.super_resolution.load import load_super_resolver
from dtn_ray.super_resolution.options import SuperResolution

CASES = 300
MORE = 1_400_000  # kB of memory that all cases of a kind may take together, above what the libraries do
SLOW = 60  # seconds for one case

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, 1e-308, float("nan"), float("inf")),
    *("", "x", "../x", "/etc/passwd", "s3://bucket/key", "\0", "\x1b[2J", "\ud800", "é" * 5000, "0" * 64),
    *([], {}, [[]], [0] * 1000, {"a": {"b": [1]}}, {"size": 30_000}),
]


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [path, *(each for key, value in inner for each in places(value, (*path, key)))]


def exchange(content: bytes, chance: random.Random) -> bytes:
    """Values of a JSON file replaced, taken away, renamed or moved."""
    values = json.loads(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        found = places(values)
        path = chance.choice(found)
        if not path:
            continue
        holder = values
        for key in path[:-1]:
            holder = holder[key]
        action = chance.randrange(5)
        if action == 0:
            holder.pop(path[-1])
        elif action == 1 and isinstance(holder, dict):
            holder[chance.choice(("x", "Size", f"{path[-1]}s", ""))] = holder.pop(path[-1])
        elif action == 2 and isinstance(holder[path[-1]], int | float):
            holder[path[-1]] *= chance.choice((-1, 2, 10, 1000, 1e9))
        elif action == 3:
            other = values
            for key in chance.choice(found):
                other = (
                    other[key]
                    if isinstance(other, list | dict)
                    and key in (other if isinstance(other, dict) else range(len(other)))
                    else other
                )
            holder[path[-1]] = json.loads(json.dumps(other))
        else:
            holder[path[-1]] = copy.deepcopy(chance.choice(ODD))
    return json.dumps(values).encode()


def edit_header(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose header says something else than what follows it."""
    length = int.from_bytes(content[:8], "little")
    header = exchange(content[8 : 8 + length], chance)
    told = chance.choice((len(header),) * 8 + (0, 1, len(header) - 1, len(header) + 1, 1 << 40))
    return told.to_bytes(8, "little") + header + content[8 + length :]


def edit_fields(content: bytes, chance: random.Random) -> bytes:
    """An ONNX file with some of its fields changed."""
    network = onnx.load_model_from_string(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        message: Any = network
        while True:
            fields = message.ListFields()
            if not fields:
                break
            field, value = chance.choice(fields)
            repeated = hasattr(value, "__len__") and not isinstance(value, str | bytes)
            if field.message_type is not None:
                inner = chance.choice([*value]) if repeated else value
                if repeated and chance.random() < 0.1:
                    del value[chance.randrange(len(value))]
                    break
                if chance.random() < 0.9:
                    message = inner
                    continue
                message.ClearField(field.name)
                break
            _change(message, field, value, repeated, chance)
            break
    return network.SerializeToString()


def _change(message: Any, field: Any, value: Any, repeated: bool, chance: random.Random) -> None:
    old = value[0] if repeated and len(value) else value
    if isinstance(old, str):
        new: Any = chance.choice(("", "x", "y", "z", "W", "Loop", "Conv", "Resize", "Expand", "../w.bin", "a" * 1000))
    elif isinstance(old, bytes):
        new = flip(old, chance) if chance.random() < 0.5 else cut(old, chance) if old else b"x"
    elif isinstance(old, float):
        new = chance.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    else:
        new = chance.choice((0, 1, -1, 2, 7, 16, 1000, 100_000, 2**31 - 1))
    try:
        if repeated:
            value[chance.randrange(len(value))] = new
        else:
            setattr(message, field.name, new)
    except (ValueError, TypeError):  # not of this field's range
        message.ClearField(field.name)


Mutation = Callable[[bytes, random.Random], bytes]
OF_JSON: tuple[Mutation, ...] = (exchange, exchange, exchange, flip, cut)
OF_WEIGHTS: tuple[Mutation, ...] = (edit_header, edit_header, flip, cut)
OF_ONNX: tuple[Mutation, ...] = (edit_fields, edit_fields, edit_fields, flip, cut)
EASY = [name for name in STYLES if name != "microsoft_operations"]


def originals(folder: Path) -> None:
    """Everything that the cases change."""
    write_dtn(folder / "dtn")
    f = write_face_network(folder / "networks/f.onnx", seed=0)
    write_faces_dtn(folder / "faces", f)
    write_classifier(folder / "classifier")
    torch.manual_seed(3)
    people = FacePretraining("faces", width=0.05, features=8)
    deepface = build_deepface(people, 5)
    checkpoint.save(folder / "face_network", "face_network", people, {"face_network": deepface}, people=5, step=1)
    checkpoint.save(folder / "srcnn", "super_resolution", SuperResolution("images"), {"srcnn": SRCNN()}, step=1)


def of_manifest(folder: Path, chance: random.Random) -> Callable[[], Any]:
    kind = chance.choice([*LOAD])
    path = shutil.copytree(folder / kind, folder / "case") / "checkpoint.json"
    path.write_bytes(chance.choice(OF_JSON)(path.read_bytes(), chance))
    return lambda: LOAD[kind](str(path.parent))


def of_weights(folder: Path, chance: random.Random) -> Callable[[], Any]:
    kind = chance.choice([*LOAD])
    path = chance.choice(sorted(shutil.copytree(folder / kind, folder / "case").glob("*.safetensors")))
    path.write_bytes(chance.choice(OF_WEIGHTS)(path.read_bytes(), chance))
    return lambda: LOAD[kind](str(path.parent))


def of_records(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """NETWORK.json and result.json."""
    case = folder / "case"
    if chance.random() < 0.5:
        shutil.copytree(folder / "networks", case)
        path, load = case / "f.json", lambda: load_imported(str(case / "f.onnx"))
    else:
        case.mkdir()
        shutil.copytree(folder / "classifier", case / "checkpoint_1")
        path, load = case / "result.json", lambda: load_classifier(str(case))
        path.write_text(json.dumps({"checkpoint": "checkpoint_1", "metrics": {"test_error": 0.5, "of": [1, None]}}))
    path.write_bytes(chance.choice(OF_JSON)(path.read_bytes(), chance))
    return load


def of_optimizers(folder: Path, chance: random.Random) -> Callable[[], Any]:
    def optimizer() -> torch.optim.Optimizer:
        weights = [torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(4))]
        return torch.optim.AdamW(weights, lr=0.1)

    trained = optimizer()
    for weight in trained.param_groups[0]["params"]:
        weight.grad = torch.ones_like(weight)
    trained.step()
    path = folder / "case"
    state: Any = {"g": trained.state_dict()}
    if chance.random() < 0.5:
        holder = state
        while isinstance(holder, dict | list) and holder:
            keys = [*holder] if isinstance(holder, dict) else [*range(len(holder))]
            key = chance.choice(keys)
            if chance.random() < 0.3 or not isinstance(holder[key], dict | list):
                tensors = [torch.zeros(0), torch.full((3, 4), float("nan")), torch.zeros(3, 4).half(), torch.ones(1)]
                holder[key] = chance.choice([*ODD, *tensors, torch.zeros(1).expand(10**6, 10**6)])
                break
            holder = holder[key]
        torch.save(state, path)
    else:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path.write_bytes(chance.choice((flip, flip, cut))(buffer.getvalue(), chance))
    return lambda: optimizer_states.read(path, {"g": optimizer()})


def of_onnx(folder: Path, chance: random.Random) -> Callable[[], Any]:
    case = folder / "case"
    case.mkdir()
    name = chance.choice(EASY)
    eye = {"size": SIZE} | ({"low": 0, "high": 255} if "bytes" in name else {})
    (case / "f.json").write_text(json.dumps(eye))
    path = case / "f.onnx"
    path.write_bytes(chance.choice(OF_ONNX)(content(STYLES[name]()), chance))
    load = chance.choice((load_imported, load_imported, load_imported, load_super_resolver))
    return lambda: load(str(path))


KINDS = {each.__name__: each for each in (of_manifest, of_weights, of_records, of_optimizers, of_onnx)}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(kind: str, folder: Path) -> None:
    """Tries all cases of a kind, and prints what became of them; a traceback, where one ends in anything else."""
    warnings.simplefilter("ignore")
    originals(folder)
    for kinds in LOAD:
        LOAD[kinds](str(folder / kinds))  # libraries are imported before memory is measured
    load_imported(str(folder / "networks/f.onnx"))
    before, outcomes = peak(), Counter[str]()
    for number in range(CASES):
        chance = random.Random(f"{kind} {number}")
        load, began = KINDS[kind](folder, chance), time.monotonic()
        try:
            load()
            outcomes["loaded"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            text = str(error)
            assert "\n" not in text and len(text) < 2000 and text.isprintable(), f"{kind} {number}: {text[:3000]!r}"
        except BaseException:
            print(f"{kind} {number}", file=sys.stderr)
            raise
        assert time.monotonic() - began < SLOW, f"{kind} {number}: {time.monotonic() - began:.0f} s"
        assert peak() - before < MORE, f"{kind} {number}: {peak() - before:,} kB more"
        case = folder / "case"
        shutil.rmtree(case) if case.is_dir() else case.unlink(missing_ok=True)
    print(json.dumps(outcomes | {"kB": peak() - before}))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_load_or_are_refused(kind: str, tmp_path: Path) -> None:
    outcomes = outcomes_of(__file__, kind, str(tmp_path))
    assert outcomes["loaded"] + outcomes["refused"] == CASES
    assert outcomes["refused"] > CASES / 4, "the mutations hardly change anything"


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))
