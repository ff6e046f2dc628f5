"""The papers' published numbers, and which of our cells they belong to. The numbers are in paper.yaml."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from resnet_repro.results import Cell, Protocol

STEPS = 64_000  # [v1 Sec. 4.2]
NOT_RECIPE = ("arch.", "hardware.", "schedule.log_every", "schedule.eval_")


@dataclass(frozen=True)
class Published:
    """One printed number: a test error in %, where it is printed, what it is, and the cell that reproduces it."""

    source: str
    printed: str
    data: str
    statistic: str
    arch: tuple[str, ...] = ()
    depth: int | None = None
    batch_size: int = 128
    error: float | None = None
    above: float | None = None  # printed as "fail" or "higher than": the error is over this
    mean: float | None = None
    std: float | None = None
    params_m: float | None = None  # millions

    @property
    def number(self) -> float | None:
        """What our mean over seeds is set against: the printed mean, where there is none the printed error."""
        return self.error if self.mean is None else self.mean

    @property
    def compared(self) -> str:
        """The number that ours is set against, as text: `6.61 ± 0.16`, `8.75`, `over 20`."""
        return str(self) if self.mean is None else f"{self.mean:.2f} ± {self.std:.2f}"

    def __str__(self) -> str:
        """As printed: `6.43 (6.61 ± 0.16)`, `8.75`, `over 20`."""
        if self.above is not None:
            return f"over {self.above:g}"
        return f"{self.error:.2f}" + ("" if self.mean is None else f" ({self.mean:.2f} ± {self.std:.2f})")


@cache
def registry() -> tuple[Published, ...]:
    """Every published number, in the order of paper.yaml."""
    tables = yaml.safe_load(resources.files("resnet_repro").joinpath("paper.yaml").read_text(encoding="utf-8"))
    rows = ({key: table[key] for key in table if key != "rows"} | row for table in tables for row in table["rows"])
    return tuple(Published(**{**row, "arch": tuple(row.get("arch", ()))}) for row in rows)


def published(*, data: str, arch: str, depth: int, batch_size: int = 128) -> Published | None:
    """The published number of a cell; of several, one with a mean over runs is preferred, then the first."""
    cell = (data, depth, batch_size)
    rows = [row for row in registry() if arch in row.arch and (row.data, row.depth, row.batch_size) == cell]
    return max(rows, key=lambda row: row.mean is not None, default=None)


def published_for(cell: Cell, protocol: Protocol) -> Published | None:
    """The published number of one of our cells, None where the papers have none."""
    return published(data=protocol.data, arch=cell.arch, depth=cell.depth, batch_size=protocol.batch_size)


def departures(protocol: Protocol) -> str:
    """Why our numbers on the papers' data are not comparable with theirs; empty where they are."""
    if all(row.data != protocol.data for row in registry()):
        return ""
    parts = []
    for key, value in protocol.runs[0].manifest["departures"].items():
        if key == "schedule.steps":
            parts.append(f"{value:,} of {STEPS:,} steps")
        elif key == "data.val_size":
            parts.append(f"{value:,} training images held out")
        elif key not in ("schedule.warmup", "schedule.batch_size") and not key.startswith(NOT_RECIPE):
            parts.append(f"{key}={value}")  # a warm-up stands in the network's name, a batch size has rows of its own
    return ", ".join(parts) and ", ".join(parts) + ": not comparable"
