"""Where a run's numbers go besides metrics.csv: Weights & Biases, as `logger=` says."""

import csv
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger

from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Wandb
from resnet_repro.runs.wandb_account import GRACE_S, kill_wandb_after, wandb_mode
from resnet_repro.training.loggers import rows_of

STEP = "trainer/global_step"
"""Lightning's name for the training step: W&B draws every other number against it."""


class LenientWandbLogger(WandbLogger):
    """Let a run go on without W&B when W&B's own process is gone: metrics.csv has every number.

    W&B counts training steps, so that a resumed run logs no step twice.
    """

    is_lost = False
    first_step = 0
    """Step of the first row that W&B does not have yet."""
    last_step = -1
    """Step of the last row given to W&B. Kept here because W&B's own process, if silent, takes half a minute to ask."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        if self.is_lost or step < self.first_step:
            return
        try:
            self.experiment.log({**metrics, STEP: step}, step=step, commit=True)
            self.last_step = step
        except Exception as error:  # a broken connection to W&B's process can raise nearly anything
            self.is_lost = True
            print(f"W&B has failed, the run goes on without it: {error!r}", flush=True)


def wandb_logger(job: Job, folder: RunDir) -> LenientWandbLogger:
    """Start or resume the W&B run of a job, named, tagged and grouped by sweep; return its logger.

    Args:
        folder: the run's folder; rows of its `metrics.csv` and `timing.csv` that W&B does not have yet are logged.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # the sweep prints the runs' addresses once, at its end
    options, settings = job.run, job.run.logger
    assert isinstance(settings, Wandb)
    network, data = options.network, options.data.name

    def logger(mode: str) -> LenientWandbLogger:
        made = LenientWandbLogger(
            project=settings.project,
            entity=settings.entity,
            name=job.name,
            id=hashlib.sha256(f"{job.group}/{data}/{job.name}".encode()).hexdigest()[:12],
            group=job.group,
            tags=[network.name, network.kind, data],
            save_dir=options.outputs,  # one folder for all runs, so that `wandb leet` shows them together
            offline=mode == "offline",
            config={**options.record(), **job.labels},
            settings=wandb.Settings(finish_timeout=settings.upload_seconds, finish_timeout_raises=True),
        )
        # `experiment` starts the W&B run, so a failure is raised here
        made.experiment.define_metric("responses/*", step_metric="responses/layer")
        return made

    mode = wandb_mode(settings.mode)
    try:
        made = logger(mode)
    except Exception as error:
        if mode == "offline" or settings.mode == "online":
            raise
        print(f"W&B cannot be reached, the run is kept offline: {error!r}", flush=True)
        wandb.teardown()  # otherwise W&B's service keeps the run's id
        made = logger("offline")
    _go_on(made, folder)
    return made


def _go_on(logger: LenientWandbLogger, folder: RunDir) -> None:
    """Log the rows that W&B does not have, so that W&B gets every row of a resumed run once.

    Online, W&B knows its last step. Offline, W&B has the rows that an earlier process or `wandb sync` has uploaded.
    All later rows are logged again, so this process's W&B folder replaces the earlier offline folders.
    """
    run = logger.experiment
    own = Path(run.dir).parent
    before = read_json(folder.wandb) if folder.wandb.exists() else {}
    uploaded = before.get("uploaded_step", 0)
    if before and _is_synced(own.with_name(before["folder"])):
        uploaded = max(uploaded, folder.read_status().get("step", 0))
    logger.first_step = uploaded + 1 if run.offline else run.step
    logger.last_step = logger.first_step - 1
    for step, row in rows_of(folder.metrics, folder.timing).items():
        logger.log_metrics(row, step)
    write_json(folder.wandb, {"folder": own.name, "uploaded_step": logger.first_step - 1})
    for path in own.parent.glob(f"offline-run-*-{run.id}"):
        if path != own and not _is_synced(path):
            shutil.rmtree(path, ignore_errors=True)  # a killed run's W&B process may still write there


def _is_synced(path: Path) -> bool:
    return any(path.glob("*.synced"))


def finish_wandb(logger: LenientWandbLogger, folder: RunDir, summary: dict[str, Any], *, exit_code: int) -> str | None:
    """Close the W&B run. A failure of W&B is printed and does not fail the run.

    Args:
        folder: the run's folder; if the run has succeeded, the rows of responses.csv are logged after the last step.
        summary: numbers for W&B's table of runs; None values are left out.

    Returns:
        The name of the run's folder in `wandb/` if W&B does not have all of it, else None.
    """
    run = logger.experiment
    own = Path(run.dir).parent.name
    limit = kill_wandb_after(GRACE_S + (run.settings.finish_timeout or 0))  # W&B's own timeout covers only uploads
    try:
        if exit_code == 0:
            with folder.responses.open(newline="") as file:
                for row in csv.DictReader(file):
                    run.log({"responses/layer": int(row["layer"]), "responses/std": float(row["std"])}, commit=True)
        run.summary.update({key: value for key, value in summary.items() if value is not None})
        run.finish(exit_code=exit_code)
    except Exception as error:  # a TimeoutError if W&B cannot be reached
        print(f"W&B could not be closed: {error!r}", flush=True)
        return own
    finally:
        limit.cancel()
    if run.offline:
        return own
    write_json(folder.wandb, {"folder": own, "uploaded_step": logger.last_step})
    return None
