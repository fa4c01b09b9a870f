"""The paper's method and its networks need torch, and nothing else that has to be installed."""

import subprocess
import sys

ALONE = """
import importlib, importlib.metadata as metadata, pkgutil, re, sys

# What torch itself needs, directly or not.
needed, left = set(), ["torch"]
while left:
    name = re.sub(r"[-_.]+", "-", re.match(r"[\\w.-]+", left.pop())[0]).lower()
    if name not in needed:
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        needed.add(name)
        left += [each for each in requirements if "extra ==" not in each]
hidden = {
    package
    for package, owners in metadata.packages_distributions().items()
    if package != "dtn_ray" and not needed & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
}
assert {"ray", "pyarrow", "pydantic", "tyro", "numpy", "PIL", "torchvision", "boto3", "onnx"} <= hidden, sorted(hidden)


class Hiding:  # finds what the finder behind it finds, but for what is hidden
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, path, target)


sys.meta_path[:] = map(Hiding, sys.meta_path)
for room in ("dtn_ray.models", "dtn_ray.method"):
    found = [each.name for each in pkgutil.iter_modules(importlib.import_module(room).__path__)]
    assert len(found) > 5
    for name in found:
        if not name.startswith("onnx_"):  # imported where a network comes as ONNX, and only then
            importlib.import_module(f"{room}.{name}")

# A whole training step, and conversion's way.
import torch
from dtn_ray.method.dtn import DTN, DTNTrainer
from dtn_ray.method.features import FrozenF
from dtn_ray.method.options import LossConfig, OptimConfig
from dtn_ray.models.digits import DigitD, DigitF, DigitG

f = FrozenF(DigitF(width=0.1))
dtn = DTN(f, DigitG(f.network.features, width=0.05), DigitD(width=0.05))
trainer = DTNTrainer(dtn, LossConfig(), OptimConfig(batch_size=2), torch.device("cpu"))
s, t = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 1, 32, 32) * 2 - 1
terms = trainer.step(s, t, 0)
print(sorted(terms), tuple(dtn.G(s).shape))
"""


def test_models_and_method_are_importable_and_train_with_torch_alone():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert "'L_const'" in done.stdout and done.stdout.endswith("(2, 1, 32, 32)\n")
