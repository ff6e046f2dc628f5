"""Import PyTorch and Lightning without the half of that import which no run here uses.

Wherever they are installed, torchmetrics imports torchvision, SciPy and matplotlib, for metrics and plots that this
package does not have, and Lightning imports torch.compile's compiler for two names. Together they take as
long as PyTorch itself. They are hidden while Lightning is imported and can be imported afterwards, as usual.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError
from types import ModuleType
from typing import Any

from resnet_repro.machine import no_garbage_collection

UNUSED = frozenset({"matplotlib", "omegaconf", "scipy", "torchvision"})
COMPILER = "torch._dynamo"
LIGHTNING = ("lightning_fabric", "pytorch_lightning", "torchmetrics")


def import_lightning() -> None:
    """Import Lightning, if this process has not yet; the ordinary way if the short way fails, whatever the reason."""
    if any(name in sys.modules for name in LIGHTNING):
        return
    with no_garbage_collection():
        import torch  # noqa: F401  # it uses nothing that is hidden next

        try:
            with _hidden(), _without_compiler():
                importlib.import_module("pytorch_lightning")
        except Exception:  # another version of these libraries, which needs what is hidden
            for name in [name for name in sys.modules if name.partition(".")[0] in LIGHTNING]:
                del sys.modules[name]
            importlib.import_module("pytorch_lightning")


class _Finder(MetaPathFinder):
    """Finds no package of `names`, as if they were not installed, and leaves all others to the other finders."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


@contextmanager
def _hidden() -> Iterator[None]:
    """Make Lightning's libraries believe that what is UNUSED, and not imported yet, is not installed."""
    from lightning_utilities.core import imports

    names = UNUSED - sys.modules.keys()
    finder, version = _Finder(names), imports._version

    def visible_version(distribution_name: str) -> str:
        if distribution_name in names:
            raise PackageNotFoundError(distribution_name)
        return version(distribution_name)

    sys.meta_path.insert(0, finder)
    imports._version = visible_version
    try:
        yield
    finally:
        imports._version = version
        sys.meta_path.remove(finder)
        for cached in (imports.package_available, imports.module_available):
            cached.cache_clear()  # whoever asks from now on is told the truth


class _CompiledType(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, getattr(sys.modules.get(COMPILER), cls.__name__, ()))


class OptimizedModule(metaclass=_CompiledType):
    """Stands in Lightning for the class of the same name, which nothing is an instance of before the compiler is here.

    Lightning asks only whether a network is an instance. The answer is that of the class itself, once that is imported.
    """


def disable(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """Keep the compiler, as soon as that is imported, out of a function: `torch._dynamo.disable` for Lightning."""

    @functools.wraps(function)
    def undisturbed(*inputs: Any, **named: Any) -> Any:
        compiler = sys.modules.get(COMPILER)
        return (compiler.disable(function, *args, **kwargs) if compiler else function)(*inputs, **named)

    return undisturbed


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Give whoever imports the compiler the two names that Lightning needs, unless the compiler is imported already."""
    if COMPILER in sys.modules:
        yield
        return
    sys.modules[COMPILER] = stand_in = ModuleType(COMPILER)
    vars(stand_in).update(OptimizedModule=OptimizedModule, disable=disable)
    try:
        yield
    finally:
        if sys.modules.get(COMPILER) is stand_in:
            del sys.modules[COMPILER]
