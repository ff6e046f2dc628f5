"""Small runs for tests: composed as `python train.py` composes them, prepared, and stopped where a test says so."""

import os
import signal
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from resnet_repro.data.in_memory import InMemoryData
from resnet_repro.data.options import InMemory
from resnet_repro.errors import Stopped
from resnet_repro.launch.checks import claim
from resnet_repro.networks.build import build
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.job import Job, make_job, resolve
from resnet_repro.runs.option_names import with_loggers
from resnet_repro.runs.options import Run
from resnet_repro.training.recorder import Recorder
from resnet_repro.training.run import run

CONF = Path(__file__).parents[2] / "conf"


@cache
def _composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def composed(*overrides: str) -> dict[str, Any]:
    """A config of the reader's own; Hydra takes a tenth of a second for one, and tests ask again and again."""
    return deepcopy(_composed(*overrides))


def resolved(*overrides: str) -> Run:
    """Return the run that these overrides ask for."""
    return resolve(composed(*overrides))


def network_of(run: Run) -> nn.Module:
    """Return the network of a run, with random weights."""
    return build(run.network, run.images)


def recorded(folder: Path) -> Run:
    """Return the run that a folder's manifest records."""
    return Run.of_record(read_json(RunDir(folder).manifest)["config"])


def in_memory(run: Run) -> InMemoryData:
    """Return the data of a run, as it trains on it."""
    assert isinstance(run.data, InMemory)
    return InMemoryData(run.data, run.batching())


def job_in(folder: Path) -> Job:
    """Return the job that a folder's job.json describes."""
    return Job.of_record(read_json(RunDir(folder).job), folder)


def change_job(folder: Path, **hardware: Any) -> None:
    """Write other values of `hardware` into a folder's job.json."""
    record = read_json(RunDir(folder).job)
    record["config"]["hardware"] |= hardware
    write_json(RunDir(folder).job, record)


def composed_with_choices(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config and the file of each group that it comes from, as a sweep composes its jobs."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    ours: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]), resolve=True)
    return ours, with_loggers(config.hydra.runtime.choices, ours)


TINY = ("data=digits", "depth=8", "logger=csv", "schedule.steps=24", "schedule.eval_every=8", "schedule.log_every=3")


def prepared(outputs: Path, *overrides: str) -> Path:
    """A run folder as the sweep leaves it to the job's process."""
    config = composed(*TINY, *overrides, f"outputs={outputs}")
    job = make_job(config, usual=composed("data=digits"))
    claim(job, group="test", command="python train.py")
    return job.dir


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, *, by: signal.Signals = signal.SIGTERM) -> None:
    """Send this process a real signal right after the given step."""
    original = Recorder.on_train_batch_end

    def on_train_batch_end(self: Recorder, trainer: pl.Trainer, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == step:
            os.kill(os.getpid(), by)

    monkeypatch.setattr(Recorder, "on_train_batch_end", on_train_batch_end)


def assert_a_stop_changes_nothing(whole: Path, parts: Path, monkeypatch: pytest.MonkeyPatch, *, step: int = 13) -> None:
    """Of two prepared runs of the same config, one is stopped after a step and goes on: the same bits."""
    expected = run(whole)
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        with pytest.raises(Stopped):
            run(parts)
    manifest = run(parts)
    assert manifest["weights_sha256"] == expected["weights_sha256"]
    assert manifest["results"] == expected["results"]
    assert RunDir(parts).metrics.read_bytes() == RunDir(whole).metrics.read_bytes()
