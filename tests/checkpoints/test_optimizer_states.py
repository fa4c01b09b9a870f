"""optimizers.pt is checked before a training goes on with it: one line, and what to do."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dtn_ray.checkpoints import checkpoint
from dtn_ray.errors import UserError


def optimizer(steps: int = 0, shape: tuple[int, ...] = (3, 4), **how: Any) -> torch.optim.Optimizer:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(4))]
    adam = torch.optim.AdamW(weights, **{"lr": 0.1} | how)
    for _ in range(steps):
        sum(weight.square().sum() for weight in weights).backward()  # type: ignore[union-attr]
        adam.step()
    return adam


def refused(folder: Path, problem: str, **optimizers: torch.optim.Optimizer) -> None:
    with pytest.raises(UserError, match=rf"^{folder}/optimizers\.pt: cannot resume .*{problem}.*start again") as caught:
        checkpoint.load_optimizers(folder, optimizers or {"g": optimizer()})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[Any, Any]) -> None:
        for name in path[:-1]:
            state = state[name]
        state[path[-1]] = to

    return change


NAN = torch.full((3, 4), float("nan"))
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no name": (lambda s: s.pop("g"), "holds no states of g"),
    "another name": (_set("x", to={}), "holds no states of g"),
    "no dict": (_set("g", to=[1]), "not the state of an optimiser"),
    "no state": (lambda s: s["g"].pop("state"), "not the state of an optimiser"),
    "no groups": (_set("g", "param_groups", to=[]), "param_groups must have 1 groups"),
    "other weights": (_set("g", "param_groups", 0, "params", to=[0, 1, 2]), "its parameters are not this network's"),
    "NaN rate": (_set("g", "param_groups", 0, "lr", to=float("nan")), "lr is not a learning rate"),
    "betas": (_set("g", "param_groups", 0, "betas", to=(5.0, 5.0)), "betas are not two numbers"),
    "decay": (_set("g", "param_groups", 0, "weight_decay", to=7.0), "weight_decay is not 0.01"),
    "more": (_set("g", "state", 5, to={}), "has states of other parameters"),
    "less": (lambda s: s["g"]["state"][0].pop("exp_avg"), "needs exp_avg, exp_avg_sq, step"),
    "shape": (_set("g", "state", 0, "exp_avg", to=torch.zeros(4, 3)), r"exp_avg must be a tensor of shape \(3, 4\)"),
    "huge": (_set("g", "state", 0, "exp_avg", to=torch.zeros(1).expand(10**7, 10**7)), "exp_avg must be a tensor"),
    "type": (_set("g", "state", 0, "exp_avg", to=torch.zeros(3, 4).half()), "exp_avg must be a tensor"),
    "NaN": (_set("g", "state", 0, "exp_avg", to=NAN), "exp_avg has numbers that are not finite"),
    "negative": (_set("g", "state", 0, "exp_avg_sq", to=-torch.ones(3, 4)), "exp_avg_sq is negative"),
    "number": (_set("g", "state", 0, "step", to=3), "step must be a tensor"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_states_of_something_else_are_refused(case: str, tmp_path: Path) -> None:
    change, problem = CHANGES[case]
    state = {"g": optimizer(steps=2).state_dict()}
    change(state)
    torch.save(state, tmp_path / "optimizers.pt")
    refused(tmp_path, problem)


def test_states_of_another_network_are_refused(tmp_path: Path) -> None:
    checkpoint.save_optimizers(tmp_path, {"g": optimizer(steps=1)})
    refused(tmp_path, "exp_avg must be a tensor", g=optimizer(shape=(3, 5)))
    refused(tmp_path, "holds no states of g, D", g=optimizer(), D=optimizer())


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x02}q\x00.", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_of_torch_is_refused(content: bytes, tmp_path: Path) -> None:
    refused(tmp_path, "No such file")
    (tmp_path / "optimizers.pt").write_bytes(content)
    refused(tmp_path, "")


def test_a_flipped_bit_is_found_by_its_checksum(tmp_path: Path) -> None:
    checkpoint.save_optimizers(tmp_path, {"g": optimizer(steps=2)})
    path = tmp_path / "optimizers.pt"
    content = bytearray(path.read_bytes())
    number = optimizer(steps=2).state_dict()["state"][0]["exp_avg"].numpy().tobytes()
    content[content.index(number)] ^= 1
    path.write_bytes(content)
    refused(tmp_path, "the checksum of .* is wrong")


def test_an_archive_that_becomes_many_bytes_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "optimizers.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(100_000_000))
    refused(tmp_path, "not written by torch.save")


def test_states_come_back_before_and_after_the_first_step(tmp_path: Path) -> None:
    for steps in (0, 2):
        checkpoint.save_optimizers(tmp_path, {"g": optimizer(steps)})
        fresh = optimizer()
        checkpoint.load_optimizers(tmp_path, {"g": fresh})
        assert len(fresh.state_dict()["state"]) == (2 if steps else 0)
