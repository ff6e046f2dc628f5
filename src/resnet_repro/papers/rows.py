"""The papers' tables and figures, and which of our runs belong to which of their rows.

Each table or figure is a file, `conf/experiment/v1_table6.yaml`, with these keys:

- `source`: the paper and the place in it, `v1 Table 6`; the file's name follows from it. v1 is arXiv:1512.03385, v2 is
  arXiv:1603.05027.
- `what`: the title.
- `seeds`: `python train.py experiment=v1_table6` trains each row once with each seed.
- `overrides`: options of `python train.py` that all rows share.
- `rows`: each has `printed`, the row's name in the paper, and any field of `Published`. Its `overrides` come after the
  table's, and the last value of an option wins. A row with a `why` of its own takes no overrides from the table. A row
  with the table's `why` says by its overrides which network it is, and they are all it needs once it can be run.
- `parts`: in place of `rows` if a table has several data sets. Each part has its own `what`, `overrides` and `rows`.

Any other field of `Published` may stand at the table or at a part, and holds for all its rows. A row that can be run
and has no number is a curve.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import yaml

from resnet_repro.conf_dir import config_dir
from resnet_repro.errors import UserError
from resnet_repro.networks.options import AskedResidual, group_size
from resnet_repro.options import Family
from resnet_repro.runs.job import Config
from resnet_repro.runs.options import CellKey, Run, cell_key
from resnet_repro.runs.recipes import recipe

NOT_RECIPE = (
    *("arch.", "data.augment", "hardware.", "protocol"),
    *("schedule.log_every", "schedule.eval_", "schedule.ghost_batch_size"),
)
"""Departures that a cell or `conditions` names, or that change no result."""


@dataclass(frozen=True)
class Published:
    """One printed row: where it is printed, its errors in %, what they are, and the options that reproduce it."""

    source: str
    what: str
    printed: str
    overrides: tuple[str, ...] = ()
    why: str = ""
    """Why nothing here can reproduce the row."""
    statistic: str = ""
    """What the printed error is: median, best or mean of `runs` runs; empty if the paper is silent."""
    runs: int | None = None
    error: float | None = None
    """The printed top-1 error."""
    above: float | None = None
    """Stands for a printed "fail" or "over": the error is higher than this."""
    mean: float | None = None
    """`mean` and `std`: where the paper prints "(mean ± std)" behind the error."""
    std: float | None = None
    top5: float | None = None
    """The printed top-5 error."""
    test: str = "1crop"
    """How the printed error is tested, as `python evaluate.py test=` has it."""
    batch_norm: str = "running"
    """Statistics of batch norm at test time: running averages, or (`average`) plain averages over training images."""
    params_m: float | None = None
    """Printed millions of parameters."""
    multiply_adds_g: float | None = None
    """Printed multiply-adds of one image, in 10^9."""

    @property
    def number(self) -> float | None:
        """Return what ours is compared with: the printed mean, or the printed error if there is no mean."""
        return self.error if self.mean is None else self.mean

    @property
    def has_number(self) -> bool:
        """Return whether there is an error to compare ours with; a curve has none."""
        return self.number is not None or self.above is not None

    @property
    def way(self) -> list[str]:
        """Return the options of `python evaluate.py` that test as the paper did."""
        return [f"test={self.test}", *(["recompute_bn=true"] if self.batch_norm == "average" else [])]

    @property
    def split(self) -> str:
        """Return the split of the printed error: `val` on ImageNet, whose test labels are not public."""
        return "val" if self.options.get("data") == "imagenet" else "test"

    @property
    def compared(self) -> str:
        """Return the number that ours is compared with as text: `6.61 ± 0.16`, `8.75`, `over 20`."""
        return str(self) if self.mean is None else f"{self.mean:.2f} ± {self.std:.2f}"

    @property
    def about(self) -> str:
        """Return what the printed error is: `median of 5`, `best of 5`; empty if the paper is silent."""
        return self.statistic + (f" of {self.runs}" if self.runs else "")

    @property
    def headline(self) -> str:
        """Return the printed number without a mean: `6.43`, `over 20`, `22.85, top-5 6.71`, `3.8 G`, `curve`.

        Empty if no number is kept, as for other tasks.
        """
        if self.above is not None:
            return f"over {self.above:g}"
        parts = [] if self.error is None else [f"{self.error:.2f}"]
        parts += [] if self.top5 is None else [f"top-5 {self.top5:.2f}"]
        parts += [] if self.multiply_adds_g is None else [f"{self.multiply_adds_g:g} G"]
        return ", ".join(parts) or ("" if self.why else "curve")

    def __str__(self) -> str:
        """Return the numbers as printed: `6.43 (6.61 ± 0.16)`; the mean alone if it is the printed error."""
        if self.mean is None:
            return self.headline
        mean = f"{self.mean:.2f} ± {self.std:.2f}"
        return mean if self.mean == self.error else f"{self.headline} ({mean})"

    @property
    def options(self) -> dict[str, Any]:
        """Return the overrides by name: {"arch": "resnet_v1", "depth": 110, "arch.mix": "half_both", ...}."""
        return {key: yaml.safe_load(value) for key, value in (o.split("=", 1) for o in self.overrides)}

    @property
    def cell(self) -> CellKey | None:
        """Return network, data and protocol of the overrides, as `Run.cell` does; None for another's network.

        Hydra composes the same (tested) and takes a hundred times as long; a report needs the cell of every row.
        """
        return _cell(self.overrides) if self.overrides else None

    @property
    def experiment(self) -> str:
        """Return the word that runs its table, which is the name of its file: `v1_table6`, `v2_fig1`."""
        return re.sub(r"\W+", "", self.source.lower().replace(" ", "_", 1))


@cache
def _cell(overrides: tuple[str, ...]) -> CellKey:
    options = Published("", "", "", overrides).options
    name, data = options["protocol"], options["data"]
    family: Family = "imagenet" if data == "imagenet" else "cifar"
    words = _group("arch", options["arch"]) | _group("protocol", name).get("arch", {})
    words |= {k.removeprefix("arch."): v for k, v in options.items() if k.startswith("arch.")}
    network = AskedResidual.parse(words, group="arch.").at(options["depth"], family)
    augment = options.get("data.augment", recipe(name, family).augment) if family == "imagenet" else None
    return cell_key(network, data=data, augment=augment, protocol=name)


@cache
def _group(group: str, option: str) -> dict[str, Any]:
    return dict(yaml.safe_load((config_dir() / group / f"{option}.yaml").read_text(encoding="utf-8")))


KINDS = ("Table", "Sec.", "Fig.")
"""What a paper prints numbers in, in the order of docs/tables.md."""
KEYS = {field.name for field in fields(Published)}
NETWORK = ("data", "protocol", "arch", "depth")
"""The options that say which network a row is of."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where PyYAML was built with libyaml: 0.02 s for all files."""


@cache
def registry() -> tuple[Published, ...]:
    """Return every printed row: v1's tables, sections and figures, then v2's."""
    files = {path.stem: path for path in (config_dir() / "experiment").glob("*.yaml")}
    contents = {name: yaml.load(path.read_text(encoding="utf-8"), LOADER) for name, path in files.items()}
    tables = [rows_of(content, name) for name, content in contents.items() if "source" in content]  # others are sweeps
    return tuple(row for rows in sorted(tables, key=lambda rows: _place(rows[0].source)) for row in rows)


def _place(source: str) -> tuple[str, int, list[int]]:
    """Return a key to sort `v1 Table 6` by."""
    paper, kind, number = source.split()
    return paper, KINDS.index(kind), [int(part) for part in number.split(".")]


def rows_of(table: Config, name: str) -> list[Published]:
    """Return the rows of a table's file, each with what it takes from the table and from its part.

    Args:
        table: the file's content.
        name: the file's name, `v1_table6`, for a refusal.

    Raises:
        UserError: if the file is no table, has an unknown key, or lacks one.
    """
    parts = [{**table, **part} for part in table.get("parts") or [{}]]
    if not all(part.get(key) for part in parts for key in ("source", "what", "rows")):
        raise UserError(
            f"experiment={name} is no table of a paper: give it source, what, seeds, overrides and rows, as "
            "conf/experiment/v1_table6.yaml has them"
        )
    if not re.fullmatch(rf"\w+ ({'|'.join(map(re.escape, KINDS))}) \d+(\.\d+)*", str(table["source"])):
        raise UserError(
            f"experiment={name} has source={table['source']}; write it as v1 Table 6, v2 Sec. 5 or v2 Fig. 1"
        )
    return [row for part in parts for row in _rows_of_part(part, table, name)]


def _rows_of_part(part: Config, table: Config, name: str) -> Iterator[Published]:
    shared = {key: value for key, value in part.items() if key not in ("overrides", "parts", "rows", "seeds")}
    for row in part["rows"]:
        about = f"experiment={name}, row {row.get('printed')}"
        inherited = () if "why" in row else (*table.get("overrides", ()), *part.get("overrides", ()))
        by_name = {override.split("=")[0]: override for override in (*inherited, *row.get("overrides", ()))}
        values = {**shared, **row, "overrides": tuple(by_name.values())}
        if unknown := values.keys() - KEYS:
            raise UserError(f"{about}: {min(unknown)} is not a key; the keys are {', '.join(sorted(KEYS))}")
        if "printed" not in row:
            raise UserError(f"{about}: a row needs printed, its name in the paper")
        missing = [option for option in NETWORK if option not in by_name]
        if missing and (by_name or not values.get("why")):
            raise UserError(
                f"{about}: overrides lack {missing[0]}=; give {', '.join(NETWORK)}, or why it cannot be run"
            )
        yield Published(**values)


def tables() -> dict[str, list[Published]]:
    """Return the rows of every table and figure by its source, `v1 Table 1` first."""
    by_source: dict[str, list[Published]] = {}
    for row in registry():
        by_source.setdefault(row.source, []).append(row)
    return by_source


def why_not(rows: list[Published]) -> str:
    """Return why no row of a table can be reproduced here; empty if one can."""
    if not all(row.why for row in rows):
        return ""
    own = [row for row in rows if row.overrides] or rows[-1:]  # the authors' networks come last
    return ", ".join(dict.fromkeys(row.why for row in own))


def published(run: Run, *, test: str = "1crop") -> Published | None:
    """The printed row of a run and way of testing (`python evaluate.py test=`); of several, one with a mean
    over runs is preferred, then one with a top-5 error, then the first number.
    """
    ours = run.cell
    rows = [row for row in registry() if row.has_number and row.test == test and row.cell == ours]
    return max(rows, key=lambda row: (row.mean is not None, row.top5 is not None), default=None)


def deviations(manifest: dict[str, Any]) -> list[str]:
    """How a run departs from its protocol, which keeps its number from being compared with a printed one."""
    parts = []
    for key, value in manifest["departures"].items():
        if key == "schedule.steps":
            parts.append(f"{value:,} of {manifest['config']['schedule']['protocol_steps']:,} steps")
        elif key == "data.val_size":
            parts.append(f"{value:,} training images held out")
        elif not key.startswith(NOT_RECIPE):
            parts.append(f"{key}={value}")
    return parts


def conditions(run: Run) -> list[str]:
    """What differs from the papers' machines and protocol and leaves a number comparable: to be told beside it."""
    hardware, schedule = run.hardware, run.schedule
    ours = group_size(schedule.batch_size // hardware.world_size, at_most=schedule.ghost_batch_size)
    theirs = (schedule.protocol_batch_size or schedule.batch_size) // run.protocol.devices
    parts = [f"batch norm over {ours} images, not {theirs}"] if ours != theirs else []
    return parts + ([hardware.precision] if hardware.precision != "32-true" else [])


def printed_error(manifest: dict[str, Any]) -> float | None:
    """The printed error in % to set beside a run's own; None where there is none or it may not be compared.

    Config and departures are all that is read of the manifest.
    """
    row = None if deviations(manifest) else published(Run.of_record(manifest["config"]))
    return None if row is None else row.number


def printed_errors(manifest: dict[str, Any] | None, *, test: str) -> dict[str, float | None]:
    """The printed errors in % to set beside a run that was tested in this way; None where there are none."""
    row = None if manifest is None or deviations(manifest) else published(Run.of_record(manifest["config"]), test=test)
    return (
        {"paper_error": None, "paper_error_top5": None}
        if row is None
        else {"paper_error": row.number, "paper_error_top5": row.top5}
    )


TESTS = {
    "1crop": "one centre crop",
    "10crop": "corners and centre, mirrored too: ten crops averaged",
    "multiscale": "whole images at five scales, mirrored too: averaged",
    "320": "one centre crop of 320 from shorter side 320",
}
"""The papers' ways to test. [v1 Sec. 3.4, v2 Table 5]"""
