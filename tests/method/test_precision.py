"""bfloat16 is used where the device has instructions for it, and nowhere else."""

import os
import subprocess
import sys

import pytest
import torch

from dtn_ray.method import precision

COMPUTE = """
import torch
from dtn_ray.method.precision import autocast

layer, x = torch.nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8)
for _ in range(3):
    with autocast("cpu", True):
        print(layer(x).dtype)
"""


def test_a_cpu_without_bfloat16_computes_in_float32_and_says_so_once():
    """oneDNN is told to use no newer instructions than an older CPU has."""
    variables = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", COMPUTE], capture_output=True, text=True, env=variables, timeout=250)
    assert done.stdout.splitlines() == [
        "warning: --bf16: this CPU has no bfloat16 instructions; computing in float32",
        *["torch.float32"] * 3,
    ], done.stderr


@pytest.mark.parametrize("native", [True, False])
def test_it_computes_as_the_device_can_and_only_where_asked(monkeypatch, native):
    monkeypatch.setattr(precision, "has_bfloat16", lambda kind: native)
    layer, x = torch.nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8)
    with precision.autocast(torch.device("cpu"), True):
        assert layer(x).dtype == (torch.bfloat16 if native else torch.float32)
    with precision.autocast("cpu", False):
        assert layer(x).dtype == torch.float32
