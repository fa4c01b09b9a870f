"""Files of weights (safetensors), loaded only if they match their manifest and the network.

Names, shapes and types are compared with the file's header before any weight is read or the network has memory.
"""

import hashlib
import stat
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

LARGEST = 4 << 30
"""Largest file of a network, in bytes."""
HEADER = 4 << 20
"""Largest header, in bytes; a tensor takes about a hundred."""
TYPES = {torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}
"""The types of our networks' weights, and their names in a header."""
TOLD = 3  # names, in a message


def read(path: Path, expected: dict[str, Tensor], digest: str, passed_over: str | None = None) -> dict[str, Tensor]:
    """The weights in a file, copied to memory.

    `expected`: the state of the network, on any device; names, shapes and types must match. `digest`: the SHA-256 that
    the weights must have, computed as in `checkpoint.digest`. `passed_over`: a prefix of names that are ignored; if
    there are any, the network's extra state may be absent.

    Raises ValueError with the reason if the file is damaged, of another network, or does not match the digest, and
    OSError if it cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a file")
    if found.st_size > LARGEST:
        raise ValueError(f"{found.st_size:,} bytes; a network may have {LARGEST:,}")
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > min(HEADER, found.st_size - 8):
        raise ValueError(f"not a safetensors file: its header would have {header:,} bytes")
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            _compare({name: file.get_slice(name) for name in names}, expected, passed_over)
            sha, state = hashlib.sha256(), {}
            for name in names:
                value = file.get_tensor(name).clone()  # copied, because the memory-mapped file may change
                sha.update(name.encode())
                sha.update(value.numpy().reshape(-1).view(np.uint8))
                if value.is_floating_point() and not all(limit.isfinite() for limit in value.aminmax()):
                    raise ValueError(f"{name} has values that are not finite; its training diverged")
                state[name] = value
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if sha.hexdigest() != digest:
        raise ValueError(f"its weights have the SHA-256 {sha.hexdigest()}, but checkpoint.json says {digest}")
    return state


def _compare(found: dict[str, "object"], expected: dict[str, Tensor], passed_over: str | None) -> None:
    besides = {name for name in found if passed_over and name.startswith(passed_over)}
    absent = expected.keys() - found.keys()
    if besides:
        absent = {name for name in absent if not name.endswith("_extra_state")}
    for problem, names in (("lacks", absent), ("has", found.keys() - expected.keys() - besides)):
        if names:
            told = ", ".join(ascii(name)[1:81] for name in sorted(names)[:TOLD])
            raise ValueError(f"{problem} {told}{' and others' if len(names) > TOLD else ''}")
    for name, value in expected.items():
        if name not in found:
            continue
        shape, kind = tuple(found[name].get_shape()), found[name].get_dtype()  # type: ignore[attr-defined]
        if shape != tuple(value.shape):
            raise ValueError(f"size mismatch: {name} is {_times(shape)} and should be {_times(tuple(value.shape))}")
        if kind != TYPES.get(value.dtype):
            raise ValueError(f"{name} is of type {kind} and should be {TYPES.get(value.dtype, value.dtype)}")


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "one number"
