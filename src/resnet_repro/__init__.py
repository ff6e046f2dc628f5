"""Reproduce the two ResNet papers.

The Python interface, for notebooks and scripts, is `ResNet`, `train`, `load_run` and `TrainedRun`. Importing this
package imports none of them, and so no torch: each is imported when its name is first used (PEP 562).
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

# `python train.py` finds this package without an installation, so any Python may come here.
if sys.version_info < (3, 11) or find_spec("hydra") is None:
    sys.exit(
        f"error: resnet_repro needs Python 3.11 to 3.13 with its requirements, and {sys.executable} is Python "
        f"{sys.version_info[0]}.{sys.version_info[1]} without them; in the checkout, type `make install` and then "
        "`source .venv/bin/activate`"
    )

if TYPE_CHECKING:
    from resnet_repro.interface import TrainedRun, load_run, train
    from resnet_repro.networks.resnet import ResNet

__all__ = ["ResNet", "TrainedRun", "load_run", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "resnet_repro.networks.resnet" if name == "ResNet" else "resnet_repro.interface"
    return getattr(import_module(home), name)
