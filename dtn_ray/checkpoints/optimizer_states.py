"""The optimisers' states in a checkpoint (optimizers.pt), checked before a training resumes with them.

torch writes them as a ZIP archive of tensors and a pickle. torch's restricted reader takes only plain values from it.
"""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from dtn_ray.errors import UserError, reason

LARGEST = 8 << 30
"""Largest file, in bytes: twice that of a network."""
OF_ADAM = {"step", "exp_avg", "exp_avg_sq"}
OF_SGD = {"momentum_buffer"}
SCHEDULED = {"lr", "betas", "params"}
"""Entries of a group that change from step to step, or are checked separately."""


def read(path: Path, optimizers: dict[str, Optimizer]) -> dict[str, dict[str, Any]]:
    """The states of these optimisers (Adam, AdamW or SGD), by their names.

    Raises UserError, saying what to do, if the file is missing, damaged, or holds anything else.
    """
    try:
        states = _load(path)
        if not isinstance(states, dict) or states.keys() != optimizers.keys():
            raise ValueError(f"holds no states of {', '.join(optimizers)}")
        for name, optimizer in optimizers.items():
            for problem in _problems(states[name], optimizer):
                raise ValueError(f"{name}: {problem}")
    except Exception as error:  # torch, its unpickler and zipfile have no common error class
        raise UserError(
            f"{path}: cannot resume from it: missing, damaged, or of another training ({reason(error)}); start again "
            "under another --name"
        ) from error
    return states


def _load(path: Path) -> Any:
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{size:,} bytes; it may have {LARGEST:,}")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        # torch never writes compressed or overlapping records, but reads them; they could expand to a huge size.
        if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
            raise ValueError("not written by torch.save")
        if (broken := archive.testzip()) is not None:  # torch does not compare their checksums
            raise ValueError(f"the checksum of {broken} is wrong")
    return torch.load(path, weights_only=True, map_location="cpu")


def _problems(state: Any, optimizer: Optimizer) -> Iterator[str]:
    if not isinstance(state, dict) or state.keys() != {"state", "param_groups"}:
        yield "not the state of an optimiser"
        return
    own = optimizer.state_dict()["param_groups"]
    groups, values = state["param_groups"], state["state"]
    if not isinstance(groups, list) or len(groups) != len(own) or not all(isinstance(each, dict) for each in groups):
        yield f"param_groups must have {len(own)} groups"
        return
    for group, mine in zip(groups, own, strict=True):
        if group.get("params") != mine["params"]:
            yield "its parameters are not this network's"
            return
        for name in group.keys() & mine.keys() - SCHEDULED:
            if not _plain(group[name]) or group[name] != mine[name]:
                yield f"{name} is not {mine[name]}"
        lr, betas = group.get("lr"), group.get("betas")
        if not (isinstance(lr, float | int) and math.isfinite(lr) and lr >= 0):
            yield "lr is not a learning rate"
        if "betas" in mine and not (
            isinstance(betas, tuple) and len(betas) == 2 and all(isinstance(b, float) and 0 <= b < 1 for b in betas)
        ):
            yield "betas are not two numbers from 0 to 1"
    needed = OF_SGD if isinstance(optimizer, SGD) else OF_ADAM
    numbers = [number for group in own for number in group["params"]]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not isinstance(values, dict) or not values.keys() <= {*numbers}:
        yield "has states of other parameters"
        return
    for number, weight in zip(numbers, weights, strict=True):
        if number in values:
            yield from _of_one(values[number], weight, needed, f"parameter {number}")


def _of_one(state: Any, weight: Tensor, needed: set[str], name: str) -> Iterator[str]:
    if not isinstance(state, dict) or state.keys() != needed:
        yield f"{name}: needs {', '.join(sorted(needed))}"
        return
    for key, value in state.items():
        shape = torch.Size() if key == "step" else weight.shape
        if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.shape != shape:
            yield f"{name}: {key} must be a tensor of shape {tuple(shape)}"
        elif not value.isfinite().all():
            yield f"{name}: {key} has numbers that are not finite; the training diverged"
        elif key in ("step", "exp_avg_sq") and (value < 0).any():
            yield f"{name}: {key} is negative"


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
