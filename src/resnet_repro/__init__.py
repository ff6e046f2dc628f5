"""Reproduce the two ResNet papers.

The Python interface, for notebooks and scripts, is `ResNet`, `train`, `load_run` and `TrainedRun`. Importing this
package imports none of them, and so no torch: each is imported when its name is first used (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_repro.interface import TrainedRun, load_run, train
    from resnet_repro.networks.resnet import ResNet

__all__ = ["ResNet", "TrainedRun", "load_run", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "resnet_repro.networks.resnet" if name == "ResNet" else "resnet_repro.interface"
    return getattr(import_module(home), name)
