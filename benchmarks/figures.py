"""The figures of `speed.py` and `gpu_hour.py`, and what docs/speed.md says of them.

`results/FAMILY.json` holds the record of a family of processors or GPUs. RESULTS.md and the tables of docs/speed.md are
written from all of them.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"


@dataclass(frozen=True)
class Table:
    """How a table of figures is shown. A figure is the best of its rounds."""

    title: str
    ours: str | None = None
    """The row that the others are compared with."""
    best: Callable[[Iterable[float]], float] = max


OURS = "ours: `python train.py`"
FLOAT32, BF16 = "usual loop, float32", "usual loop, bf16, channels_last"
COMPILED = "usual loop, bf16, channels_last, `torch.compile`"
FLOAT32_CHANNELS_LAST = "usual loop, float32, channels_last"
FLOAT32_COMPILED = "usual loop, float32, channels_last, `torch.compile`"
ONE_THREAD, TWO_THREADS = "one run, one thread", "one run, two threads"
FIRST_STEP, MANIFEST = "command to the end of the first step", "last evaluation to the manifest"
REFUSAL, REPORT = "a refusal, `depth=21`", "`report.py` on ten runs"
CHECKPOINT = "a checkpoint"
WITHOUT_GRAPHS = "ours, `hardware.graph=false`"
THROUGH_MPS, IN_TURNS = "through MPS", "in turns, `mps=false`"
MULTIPLY_ADDS, BYTES = "multiply-adds", "bytes read and written"
FLOOR = "floor: multiply-adds and six memory passes"

TABLES = {
    "train": Table("CIFAR-10, batch 128, images/s on one thread", OURS),
    "pages": Table("The same with pages of 2 MB on both sides (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`)", OURS),
    "resnet50": Table("Photographs, batch 32, images/s on one thread", OURS),
    "gpu": Table(
        "CIFAR-10, batch 128, images/s on one GPU, deterministic, each side in one process after the other", OURS
    ),
    "several": Table("Runs of ResNet v1-20 on CIFAR-10 that share one GPU, batch 128, images/s in sum", THROUGH_MPS),
    "threads": Table("Ours on two idle cores, CIFAR-10, images/s", TWO_THREADS),
    "start": Table("Start and end of a command, s", best=min),
    "decode": Table("Decoding and augmenting photographs, images/s of a core's time", "ours"),
    "lightning": Table("Lightning's share, digits, ms a step", best=min),
    "checkpoints": Table("Saving a checkpoint, s", best=min),
    "cost": Table("What an image costs in training, millions"),
    "rate": Table("What one thread of this machine does, billions a second"),
}


@dataclass
class Record:
    """What one `make benchmark` measured."""

    family: str
    cpu: str
    date: str
    command: str
    about: dict[str, str]
    """Cores, memory, versions, commit and load, as they are shown."""
    tables: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    """The rounds by table, column and row."""
    missing: dict[str, str] = field(default_factory=dict)
    """Why a part or a side has no figures, by its name."""

    def best(self, table: str, column: str, row: str) -> float | None:
        """Return the best round, or None if there is none."""
        rounds = self.tables.get(table, {}).get(column, {}).get(row)
        return TABLES[table].best(rounds) if rounds else None

    def with_floors(self, table: str) -> dict[str, dict[str, list[float]]]:
        """Return the columns of a table, with the floor of each network whose cost was counted."""
        floors: dict[str, dict[str, list[float]]] = {}
        for net in self.tables[table] if table in ("train", "pages", "resnet50") else ():
            seconds = [self._seconds(net, row) for row in (MULTIPLY_ADDS, BYTES)]
            if all(seconds):
                floors[net] = {FLOOR: [1 / sum(seconds)]}
        return {name: column | floors.get(name, {}) for name, column in self.tables[table].items()}

    def _seconds(self, net: str, row: str) -> float:
        """Return what an image's share of a step takes at this machine's rate, or 0 if either is unknown."""
        cost, rate = self.best("cost", net, row), self.best("rate", "one thread", row)
        return 1e-3 * cost / rate if cost and rate else 0

    def renewed(self, newer: "Record", parts: Iterable[str]) -> "Record":
        """Return the record with these parts as a newer one has them, and a word on when they were measured.

        A part that the newer record lacks stays as it is.
        """
        parts, names = [part for part in parts if part not in newer.missing], [*self.tables, *newer.tables]
        tables = {name: self.tables.get(name, {}) | newer.tables.get(name, {}) for name in names}
        missing = {name: why for name, why in self.missing.items() if name.partition(",")[0] not in parts}
        missing |= {name: why for name, why in newer.missing.items() if name.partition(",")[0] in parts}
        when = {", ".join(parts): f"of {newer.date}, commit {newer.about.get('commit', 'unknown')}"} if parts else {}
        return replace(self, tables=tables, missing=missing, about=self.about | when)

    def save(self) -> None:
        """Write the record over the family's earlier one."""
        path = HERE / "results" / f"{self.family}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def records() -> list[Record]:
    """Return the records of all families, by name."""
    paths = sorted((HERE / "results").glob("*.json"))
    return [Record(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]


@dataclass(frozen=True)
class Claim:
    """A sentence about speed, and the figure that it is about."""

    sentence: str
    """`{}` stands for the bound."""
    table: str
    column: str
    row: str
    over: tuple[str, ...] = ()
    """The figure is the row's over that of the best of these rows; with none of them, the row's own."""
    at_least: float = -math.inf
    at_most: float = math.inf
    on: tuple[str, ...] = ()
    """The instructions that name the families of processors it is about (`processor.FASTEST`); none: of all."""

    @property
    def text(self) -> str:
        return self.sentence.format(f"{self.at_least if math.isfinite(self.at_least) else self.at_most:g}")

    def value(self, record: Record) -> float | None:
        """Return the figure, or None if it was not measured or the claim is not of this processor."""
        value = record.best(self.table, self.column, self.row)
        others = [other for row in self.over if (other := record.best(self.table, self.column, row))]
        is_about = not self.on or record.family.endswith(self.on)
        if value is None or (self.over and not others) or not is_about:
            return None
        return value / TABLES[self.table].best(others) if others else value

    def is_borne_out(self, value: float) -> bool:
        return self.at_least <= value <= self.at_most


AMX, BF16_ALONE, AVX2_ALONE = ("amx_bf16",), ("avx512_bf16",), ("avx2",)
NAMES = {AMX: "AMX", BF16_ALONE: "avx512_bf16 and no AMX", AVX2_ALONE: "AVX2 and no AVX-512"}


def _over_compiled(net: str, at_least: float, on: tuple[str, ...]) -> Claim:
    sentence = f"With {NAMES[on]}, {net.replace('resnet_', 'ResNet ')} trains at least {{}} times as fast as the "
    return Claim(sentence + "compiled loop.", "train", net, OURS, (COMPILED, FLOAT32_COMPILED), at_least, on=on)


def _seconds(sentence: str, row: str, at_most: float) -> Claim:
    return Claim(sentence, "start", "s", row, at_most=at_most)


PEERS = (FLOAT32, BF16, COMPILED, FLOAT32_CHANNELS_LAST, FLOAT32_COMPILED)

CLAIMS = [
    Claim(
        "On a processor with bf16 instructions, ResNet v1-20 trains at least {} times as fast as the float32 loop.",
        *("train", "resnet_v1-20", OURS, (FLOAT32,), 2.3),
        on=AMX + BF16_ALONE,
    ),
    _over_compiled("resnet_v1-20", 1.35, AMX),
    _over_compiled("resnet_v1-56", 1.25, AMX),
    _over_compiled("resnet_v1-110", 1.25, AMX),
    _over_compiled("resnet_v2-164", 1.15, AMX),
    _over_compiled("resnet_v1-20", 1.25, BF16_ALONE),
    _over_compiled("resnet_v1-20", 1.05, AVX2_ALONE),
    Claim(
        "ResNet-50 trains at least as fast as the best usual loop, compiled or not.",
        *("resnet50", "ResNet-50", OURS, PEERS, 1),
    ),
    Claim(
        "With AMX, ResNet-50 trains at least {} times as fast as the best usual loop, compiled or not.",
        *("resnet50", "ResNet-50", OURS, PEERS, 1.25),
        on=AMX,
    ),
    Claim(
        "One run on two idle cores is at least {} times as fast with two threads as with one.",
        *("threads", "resnet_v1-20", TWO_THREADS, (ONE_THREAD,), 1.6),
    ),
    Claim(
        "On a GPU, ResNet v1-56 trains at least {} times as fast with steps recorded as CUDA graphs as without.",
        *("gpu", "resnet_v1-56", OURS, (WITHOUT_GRAPHS,), 5),
    ),
    Claim(
        "Four runs of ResNet v1-20 that share a GPU through MPS are together at least {} times as fast as in turns.",
        *("several", "4 at a time", THROUGH_MPS, (IN_TURNS,), 1.5),
    ),
    _seconds("The first step of ResNet v1-20 on CIFAR-10 ends at most {} s after the command.", FIRST_STEP, 6),
    _seconds("The manifest is written at most {} s after a run's last evaluation.", MANIFEST, 2),
    _seconds("A mistake in an option is refused within {} s.", REFUSAL, 0.7),
    _seconds("The report on ten runs takes at most {} s.", REPORT, 3),
    Claim(
        "A core decodes at least {} times as many photographs as by torchvision's reference recipe.",
        *("decode", "best round", "ours", ("reference",), 2),
    ),
    Claim(
        "Lightning, our callbacks and loggers take at most {} ms a step.",
        *("lightning", "resnet_v2-8", "Lightning, callbacks, loggers"),
        at_most=2,
    ),
    Claim(
        "A checkpoint of ResNet v1-110 takes at most {} s.",
        *("checkpoints", "resnet_v1-110", CHECKPOINT),
        at_most=0.3,
    ),
]
"""What the package claims of speed: the only sentences of docs/speed.md with a number."""


# --- Markdown ---------------------------------------------------------------------------------------------------------


def claims_and_tables(every: list[Record]) -> str:
    """Return the claims, those that nobody has measured last, and the tables of each family of processors."""
    measured = [claim for claim in CLAIMS if any(claim.value(record) is not None for record in every)]
    lines = [f"- {claim.text}{_exceptions(claim, every)}\n" for claim in measured]
    if aims := [f"- {claim.text}\n" for claim in CLAIMS if claim not in measured]:
        lines += ["\nTargets that nobody has measured yet:\n\n", *aims]
    return "".join(lines) + "".join(f"\n{_section(record)}" for record in every)


def results_page(every: list[Record]) -> str:
    """Return RESULTS.md: all figures with their rounds, and which claims they do not bear out."""
    head = "# How fast, measured\n\nWritten by `make benchmark` and `make gpu`, with a section for each family of "
    head += "processors or GPUs. A figure is the best of the rounds in square brackets. In round brackets: how many "
    head += "times as fast ours is.\n"
    return head + "".join(f"\n{_section(record, in_full=True)}" for record in every)


def write_results(every: list[Record]) -> None:
    """Write RESULTS.md."""
    RESULTS.write_text(results_page(every), encoding="utf-8")


def not_borne_out(record: Record) -> list[str]:
    """Return the claims that a record contradicts, with its figures."""
    values = [(claim, claim.value(record)) for claim in CLAIMS]
    return [f"{claim.text} Measured: {v:.3g}." for claim, v in values if v is not None and not claim.is_borne_out(v)]


def _exceptions(claim: Claim, every: list[Record]) -> str:
    values = [(record, claim.value(record)) for record in every]
    against = [f"{record.family}: {v:.3g}" for record, v in values if v is not None and not claim.is_borne_out(v)]
    return f" (**Not borne out** by {', '.join(against)}.)" if against else ""


def _section(record: Record, *, in_full: bool = False) -> str:
    about = "; ".join(f"{name} {value}" for name, value in record.about.items())
    lines = [f"## {record.cpu} ({record.family})", f"{record.date}, `{record.command}`; {about}."]
    if in_full:
        against = not_borne_out(record)
        lines.append(
            "**Claims that these figures do not bear out:** " + ("".join(f"\n- {each}" for each in against) or "none.")
        )
    for name in record.tables:
        if in_full or name in ("train", "pages", "resnet50", "gpu", "several", "threads", "start"):
            lines.append(f"{TABLES[name].title}:\n\n{_table(TABLES[name], record.with_floors(name), in_full=in_full)}")
    if in_full and record.missing:
        lines.append("Not measured:\n\n" + "\n".join(f"- {name}: {why}" for name, why in record.missing.items()))
    return "\n\n".join(lines) + "\n"


def _table(table: Table, columns: dict[str, dict[str, list[float]]], *, in_full: bool) -> str:
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    head = f"| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}"
    cells = [[_cell(table, column, row, in_full=in_full) for column in columns.values()] for row in rows]
    return "\n".join([head, *(f"| {row} | {' | '.join(line)} |" for row, line in zip(rows, cells, strict=True))])


def _cell(table: Table, column: dict[str, list[float]], row: str, *, in_full: bool) -> str:
    if not column.get(row):
        return "not measured"
    best = table.best(column[row])
    text = f"**{_number(best)}**" if row == table.ours else _number(best)
    if table.ours and row != table.ours and column.get(table.ours):
        text += f" ({table.best(column[table.ours]) / best:.2f})"
    return f"{text} [{', '.join(map(_number, column[row]))}]" if in_full and len(column[row]) > 1 else text


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 20 else f"{value:.2f}"
