"""NVIDIA's Multi-Process Service, by which a GPU runs kernels of several processes at the same time.

Without it the processes take turns: on an H100, two or four runs were together as fast as one alone. Through the
service four were 1.8 times as fast as one, and eight 2.1 times, with the same errors (benchmarks/NOTES.md). The service
can start and then serve no process, which has been seen on a virtual machine. So a small process tries it first.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from resnet_repro import machine
from resnet_repro.launch import placement
from resnet_repro.machine import MPS_CONTROL
from resnet_repro.runs.job import Job

PATIENCE_S = 30
"""Seconds that the daemon gets to start, a process to reach the GPU through it, and the daemon to end."""
TRIAL = """
import ctypes
cuda, device, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
status = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)
print(status or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
"""
"""A program that makes a context on the first GPU and prints CUDA's status: 0 if that went well."""


def is_due(jobs: list[Job], *, parallel: int) -> bool:
    """Return whether these jobs may use the service, several of them share a GPU, and the service is installed."""
    on_gpus = [job for job in jobs if placement.on_gpu(job)]
    shares = min(parallel, len(on_gpus)) * max((job.num_devices for job in on_gpus), default=0) > len(machine.gpus())
    return bool(on_gpus) and on_gpus[0].run.mps and shares and machine.has_mps()


@contextmanager
def daemon() -> Iterator[str]:
    """Run the service for the processes that this one starts meanwhile. Yield why it is left out, else an empty text.

    The service listens in a folder of its own, so it meets no other service on this machine.
    """
    with tempfile.TemporaryDirectory(prefix="resnet_repro-") as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        # Processes name GPUs as CUDA_VISIBLE_DEVICES does. A service that sees fewer GPUs would renumber them.
        variables = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"} | places
        why = _control("-d", variables=variables)
        if not why and (why := _trial(variables)):
            _control(commands="quit\n", variables=variables)
        if why:
            yield f"Runs take turns on the GPU: {why}"
            return
        before = {name: os.environ.get(name) for name in places}
        os.environ |= places
        try:
            yield ""
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
            _control(commands="quit\n", variables=variables)


def _trial(variables: dict[str, str]) -> str:
    """Return why a process does not reach the GPU through the service, else an empty text."""
    begin = f"{MPS_CONTROL} started, but a process"
    words: dict[str, Any] = {"capture_output": True, "check": False, "text": True, "start_new_session": True}
    try:
        trial = subprocess.run([sys.executable, "-c", TRIAL], env=variables, timeout=PATIENCE_S, **words)
    except subprocess.TimeoutExpired:
        return f"{begin} did not reach the GPU through it in {PATIENCE_S} s; mps=false saves this wait"
    status = trial.stdout.strip() or f"none; the process ended with {trial.returncode}"
    return "" if status == "0" else f"{begin} did not reach the GPU through it (CUDA's status: {status})"


def _control(*arguments: str, commands: str = "", variables: dict[str, str]) -> str:
    """Call the service's control program, out of reach of a terminal's Ctrl-C. Return why it fails, else empty."""
    command = [MPS_CONTROL, *arguments]
    try:
        with tempfile.TemporaryFile("w+") as said:  # the daemon inherits it; the end of a pipe would be waited for
            status = subprocess.run(
                command,
                input=commands,
                stdout=said,
                stderr=said,
                check=False,
                env=variables,
                text=True,
                timeout=PATIENCE_S,
                start_new_session=True,
            ).returncode
            said.seek(0)
            words = " ".join(said.read().split())
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{MPS_CONTROL}: {error}"
    return f"{MPS_CONTROL} ended with status {status}: {words}" if status else ""
