"""Importing the code of a run leaves out what no run uses, and a later import gets all of it."""

import subprocess
import sys

PROGRAM = """
import gc, sys
import resnet_repro.training.run
hidden = ("matplotlib", "scipy", "sklearn", "torch._dynamo", "torchvision", "wandb")
print(*{name for name in hidden if name in sys.modules}, "imported")

import matplotlib.figure, scipy.signal, torch, torchvision
from importlib.metadata import version
from lightning_utilities.core.imports import RequirementCache, module_available
assert module_available("torchvision.ops") and RequirementCache("scipy>=1.0") and version("scipy")
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)

from resnet_repro.training.lean_import import OptimizedModule
layer = torch.nn.Linear(1, 1)
print(isinstance(layer, OptimizedModule), isinstance(torch.compile(layer), OptimizedModule))
print(gc.isenabled(), sys.modules["torch._dynamo"].__file__ is not None)
"""


FAILING_ONCE = """
import sys

class Once:
    def find_spec(self, name, path=None, target=None):
        if name == "pytorch_lightning.trainer":
            sys.meta_path.remove(self)
            raise RuntimeError("needs what is hidden")

sys.meta_path.insert(0, Once())
import resnet_repro.training.run
print("torch._dynamo" in sys.modules, "scipy" in sys.modules)
"""


def output(program: str) -> list[str]:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_run_imports_no_scipy_torchvision_or_compiler() -> None:
    assert output(PROGRAM) == ["imported", "False True", "True True"]


def test_lightning_that_needs_the_rest_gets_the_rest() -> None:
    assert output(FAILING_ONCE) == ["True True"]
