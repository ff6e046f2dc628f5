"""Import this to compile fused.c while this process imports other modules, once for all processes forked from it."""

import os
from contextlib import suppress
from threading import Thread

from resnet_repro.errors import UserError
from resnet_repro.machine import no_garbage_collection

with no_garbage_collection():
    from resnet_repro.networks.fused import kernels  # torch


def _compile() -> None:
    with suppress(UserError):  # the run that needs the kernels tries again, and says what is wrong
        kernels()


compiling = Thread(target=_compile)
compiling.start()  # the compiler is a process of its own, so another core works
os.register_at_fork(before=compiling.join)  # a process with a second thread is not safe to fork
