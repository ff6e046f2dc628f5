"""Where a run's numbers go: metrics.csv always, Weights & Biases unless `logger=csv`."""

import csv
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from resnet_repro.login import wandb_mode
from resnet_repro.rundir import RunDir, replacing


class CsvLogger(Logger):
    """metrics.csv: what a run measured, bit for bit the same when it is run again; timing.csv: how fast it was.

    Columns are fixed and a row is one step, so a run that goes on appends to what it left. (Lightning's own CSVLogger
    deletes the file of a run that goes on.)
    """

    def __init__(self, run: RunDir, *, splits: list[str], first_step: int) -> None:
        super().__init__()
        measured = [f"{split}/{name}" for split in ("train", *splits) for name in ("loss", "error")]
        self.files = {run.metrics: ["step", "epoch", "lr", *measured], run.timing: ["step", "time/images_per_s"]}
        for path, columns in self.files.items():
            self._start(path, columns, first_step)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
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

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for path, columns in self.files.items():
            row = {key: metrics[key] for key in columns if key in metrics}
            if row:
                with path.open("a", newline="") as file:
                    csv.DictWriter(file, columns).writerow({"step": step, **row})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the manifest holds the config."""


class LenientWandbLogger(WandbLogger):
    """Lets a run go on without W&B when W&B's own process is gone: metrics.csv has every number."""

    is_lost = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.is_lost:
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # what a broken connection to that process raises is its own matter
            self.is_lost = True
            print(f"W&B has failed, the run goes on without it: {error!r}", flush=True)


def wandb_logger(config: dict[str, Any], *, name: str, group: str) -> WandbLogger:
    """A W&B run that goes on when the run does, named, grouped by sweep and tagged."""
    os.environ.setdefault("WANDB_SILENT", "true")  # the sweep says once, at its end, where the runs are
    arch, depth, data = config["arch"], config["depth"], config["data"]["name"]
    kind = arch["source"] if depth is None else f"depth-{depth}"

    def logger(mode: str) -> WandbLogger:
        made = LenientWandbLogger(
            project=config["logger"]["project"],
            entity=config["logger"]["entity"],
            name=name,
            id=hashlib.sha256(f"{group}/{data}/{name}".encode()).hexdigest()[:12],
            group=group,
            tags=[arch["name"], kind, data],
            save_dir=config["outputs"],  # one folder for all runs, so that `wandb leet` shows them together
            offline=mode == "offline",
            config=config,
            settings=wandb.Settings(finish_timeout=config["logger"]["upload_seconds"], finish_timeout_raises=True),
        )
        _ = made.experiment  # starts the run: here, where a failure can be told
        return made

    mode = wandb_mode(config["logger"]["mode"])
    try:
        return logger(mode)
    except Exception as error:
        if mode == "offline" or config["logger"]["mode"] == "online":
            raise
        print(f"W&B cannot be reached, the run is kept offline: {error!r}", flush=True)
        wandb.teardown()  # else its service still holds the run's id
        return logger("offline")


def finish_wandb(logger: WandbLogger, results: dict[str, Any], *, exit_code: int) -> str | None:
    """Close the W&B run with its results as its summary; a failure of W&B is no failure of the run.

    Returns:
        The name of the run's own folder in `wandb/` where W&B does not have all that is in it.
    """
    run = logger.experiment
    folder = Path(run.dir).parent.name
    try:
        run.summary.update({key: value for key, value in results.items() if value is not None})
        run.finish(exit_code=exit_code)
    except Exception as error:  # a TimeoutError where W&B is out of reach
        print(f"W&B could not be closed: {error!r}", flush=True)
        return folder
    return folder if run.offline else None
