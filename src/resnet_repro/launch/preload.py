"""What a fork server imports, and compiles, once for all runs that train on one thread of a CPU."""

import gc
from contextlib import suppress
from threading import Thread

gc.disable()  # imports make no garbage

from resnet_repro.errors import UserError  # noqa: E402
from resnet_repro.networks.fused import kernels  # noqa: E402  # torch


def _compile() -> None:
    with suppress(UserError):  # the run that needs the kernels tries again, and says what is wrong
        kernels()


compiling = Thread(target=_compile)
compiling.start()  # the compiler is a process of its own: it works on another core while this one imports Lightning

import resnet_repro.training.run  # noqa: E402, F401

compiling.join()  # a process with a second thread is not safe to fork
gc.freeze()  # what is imported stays: no run looks through it for garbage, and none gets a copy of its pages
gc.enable()
