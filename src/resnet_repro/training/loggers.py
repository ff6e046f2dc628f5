"""Where a run's numbers go: metrics.csv always, Weights & Biases unless `logger=csv`."""

import csv
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger

from resnet_repro.runs.folder import RunDir, read_json, replacing, write_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Wandb
from resnet_repro.runs.wandb_account import GRACE_S, kill_wandb_after, wandb_mode

STEP = "trainer/global_step"
"""The name by which Lightning has W&B draw everything else against the training step."""


class CsvLogger(Logger):
    """metrics.csv: what a run measured, bit for bit the same when it is run again; timing.csv: how fast it was.

    Only the first rank of a run makes one.

    Columns are fixed and a row is one step, so a run that goes on appends to what it left. (Lightning's own CSVLogger
    deletes the file of a run that goes on.)
    """

    def __init__(self, run: RunDir, *, splits: list[str], first_step: int, top5: bool = False) -> None:
        super().__init__()
        names = ["loss", "error", *(["error_top5"] if top5 else [])]  # of what is evaluated
        measured = ["train/loss", "train/error", *(f"{split}/{name}" for split in splits for name in names)]
        self.files = {run.metrics: ["step", "epoch", "lr", *measured], run.timing: ["step", "time/images_per_s"]}
        for path, columns in self.files.items():
            self._start(path, columns, first_step)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> int:
        return 0

    def _start(self, path: Path, columns: list[str], first_step: int) -> None:
        """Keep the rows up to the checkpoint that the run goes on from; later ones will be measured again.

        A last line without an end is half a row, all that a full disk took: its step may be cut, 2 instead of 25.
        """
        old: list[dict[str, str]] = []
        if first_step and path.exists():
            with path.open(newline="") as file:
                lines = [line for line in file if line.endswith("\n")]
            old = [row for row in csv.DictReader(lines) if int(row["step"]) <= first_step]
        with replacing(path) as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(old)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for path, columns in self.files.items():
            row = {key: metrics[key] for key in columns if key in metrics}
            if row:
                with path.open("a", newline="") as file:
                    csv.DictWriter(file, columns).writerow({"step": step, **row})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the manifest holds the config."""


class LenientWandbLogger(WandbLogger):
    """Lets a run go on without W&B when W&B's own process is gone: metrics.csv has every number.

    W&B's own count of steps is the training step, so that a run that goes on logs no step twice.
    """

    is_lost = False
    first_step = 0
    """Of the rows that W&B does not have yet."""
    last_step = -1
    """Of the rows that W&B has been given; asking W&B's own process takes half a minute where that is silent."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        if self.is_lost or step < self.first_step:
            return
        try:
            self.experiment.log({**metrics, STEP: step}, step=step, commit=True)
            self.last_step = step
        except Exception as error:  # what a broken connection to that process raises is its own matter
            self.is_lost = True
            print(f"W&B has failed, the run goes on without it: {error!r}", flush=True)


def wandb_logger(job: Job, folder: RunDir) -> LenientWandbLogger:
    """Return a W&B run that goes on when the run does, named, grouped by sweep and tagged.

    Args:
        folder: of the run; what `metrics.csv` and `timing.csv` hold there is logged where W&B does not have it.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # the sweep says once, at its end, where the runs are
    options, asked = job.run, job.run.logger
    assert isinstance(asked, Wandb)
    network, data = options.network, options.data.name

    def logger(mode: str) -> LenientWandbLogger:
        made = LenientWandbLogger(
            project=asked.project,
            entity=asked.entity,
            name=job.name,
            id=hashlib.sha256(f"{job.group}/{data}/{job.name}".encode()).hexdigest()[:12],
            group=job.group,
            tags=[network.name, network.kind, data],
            save_dir=options.outputs,  # one folder for all runs, so that `wandb leet` shows them together
            offline=mode == "offline",
            config={**options.record(), **job.labels},
            settings=wandb.Settings(finish_timeout=asked.upload_seconds, finish_timeout_raises=True),
        )
        run = made.experiment  # starts it: here, where a failure can be told
        run.define_metric("responses/*", step_metric="responses/layer")
        return made

    mode = wandb_mode(asked.mode)
    try:
        made = logger(mode)
    except Exception as error:
        if mode == "offline" or asked.mode == "online":
            raise
        print(f"W&B cannot be reached, the run is kept offline: {error!r}", flush=True)
        wandb.teardown()  # else its service still holds the run's id
        made = logger("offline")
    _go_on(made, folder)
    return made


def _go_on(logger: LenientWandbLogger, folder: RunDir) -> None:
    """Have W&B get every row once, also of a run that earlier processes have begun.

    Online, W&B says how far it is. Offline, it has what an earlier process has seen uploaded, or `wandb sync` since.
    The rows behind that are logged anew, and so this process's W&B folder takes the place of the earlier offline ones.
    """
    run = logger.experiment
    own = Path(run.dir).parent
    before = read_json(folder.wandb) if folder.wandb.exists() else {}
    uploaded = before.get("uploaded_step", 0)
    if before and _is_synced(own.with_name(before["folder"])):
        uploaded = max(uploaded, folder.read_status().get("step", 0))
    logger.first_step = uploaded + 1 if run.offline else run.step
    logger.last_step = logger.first_step - 1
    for step, row in _rows(folder.metrics, folder.timing).items():
        logger.log_metrics(row, step)
    write_json(folder.wandb, {"folder": own.name, "uploaded_step": logger.first_step - 1})
    for path in own.parent.glob(f"offline-run-*-{run.id}"):
        if path != own and not _is_synced(path):
            shutil.rmtree(path, ignore_errors=True)  # where the process of a killed run still writes, a rest stays


def _is_synced(path: Path) -> bool:
    return any(path.glob("*.synced"))


def _rows(*paths: Path) -> dict[int, dict[str, float]]:
    """What the files hold, by step."""
    rows: dict[int, dict[str, float]] = {}
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                values = {key: float(value) for key, value in row.items() if key != "step" and value}
                rows.setdefault(int(row["step"]), {}).update(values)
    return dict(sorted(rows.items()))


def finish_wandb(logger: LenientWandbLogger, folder: RunDir, summary: dict[str, Any], *, exit_code: int) -> str | None:
    """Close the W&B run; a failure of W&B is no failure of the run.

    Args:
        folder: of the run; where it has come to its end, responses.csv is logged as rows behind the last step's.
        summary: what W&B is to show of the run in one line; what is None is left out.

    Returns:
        The name of the run's own folder in `wandb/` where W&B does not have all that is in it.
    """
    run = logger.experiment
    own = Path(run.dir).parent.name
    limit = kill_wandb_after(GRACE_S + (run.settings.finish_timeout or 0))  # W&B's own is for uploads alone
    try:
        if exit_code == 0:
            with folder.responses.open(newline="") as file:
                for row in csv.DictReader(file):
                    run.log({"responses/layer": int(row["layer"]), "responses/std": float(row["std"])}, commit=True)
        run.summary.update({key: value for key, value in summary.items() if value is not None})
        run.finish(exit_code=exit_code)
    except Exception as error:  # a TimeoutError where W&B is out of reach
        print(f"W&B could not be closed: {error!r}", flush=True)
        return own
    finally:
        limit.cancel()
    if run.offline:
        return own
    write_json(folder.wandb, {"folder": own, "uploaded_step": logger.last_step})
    return None
