"""Where a run's numbers go: metrics.csv always, TensorBoard and Weights & Biases as `logger=` says."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from resnet_repro.runs.folder import RunDir, replacing


class CsvLogger(Logger):
    """Write metrics.csv, which is bit for bit the same when the run is repeated, and timing.csv, the speed.

    Only rank 0 makes this logger. The columns are fixed and a row is one step, so a resumed run appends to its files.
    (Lightning's own CSVLogger deletes the file of a resumed run.)
    """

    def __init__(self, run: RunDir, *, splits: list[str], first_step: int, top5: bool = False) -> None:
        super().__init__()
        names = ["loss", "error", *(["error_top5"] if top5 else [])]  # columns of each evaluated split
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
        """Keep the rows up to the checkpoint that the run goes on from. Later rows will be measured again.

        Drop a last line without a line end: a full disk took only part of that row, and 2 may be the beginning of 25.
        """
        rows: list[dict[str, str]] = []
        if first_step and path.exists():
            with path.open(newline="") as file:
                lines = [line for line in file if line.endswith("\n")]
            rows = [row for row in csv.DictReader(lines) if int(row["step"]) <= first_step]
        with replacing(path) as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for path, columns in self.files.items():
            row = {key: metrics[key] for key in columns if key in metrics}
            if row:
                with path.open("a", newline="") as file:
                    csv.DictWriter(file, columns).writerow({"step": step, **row})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the manifest holds the config."""


class TensorboardLogger(Logger):
    """Write the rows of metrics.csv and timing.csv as TensorBoard's event files into the run's folder.

    The files of a resumed run are rewritten from its rows, so TensorBoard gets every row once.
    (Lightning's own TensorBoardLogger would add a file that repeats steps.)
    """

    def __init__(self, run: RunDir) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an optional dependency

        super().__init__()
        for path in run.path.glob("events.out.tfevents.*"):
            path.unlink()
        self.writer = SummaryWriter(str(run.path))
        for step, row in rows_of(run.metrics, run.timing).items():
            self.log_metrics(row, step)

    @property
    def name(self) -> str:
        return "tensorboard"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the manifest holds the config."""

    def finalize(self, status: str) -> None:
        self.writer.close()


def rows_of(*paths: Path) -> dict[int, dict[str, float]]:
    """Return the values in these files by step."""
    rows: dict[int, dict[str, float]] = {}
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                values = {key: float(value) for key, value in row.items() if key != "step" and value}
                rows.setdefault(int(row["step"]), {}).update(values)
    return dict(sorted(rows.items()))
