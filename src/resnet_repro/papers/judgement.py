"""The papers' claims judged on our runs: for each the numbers, and whether it holds."""

import shlex
from typing import Literal, NamedTuple

import yaml

from resnet_repro.conf_dir import command
from resnet_repro.papers.claims import CLAIMS, Claim
from resnet_repro.papers.estimates import NotEnough
from resnet_repro.runs.finished import NOT_DATA, NOT_SCHEDULE, PAPERS, SPLITS
from resnet_repro.runs.groups import Comparison, held_out

COUNTED = {"data.num_train", "data.num_classes"}
NO_PROTOCOL = {*(f"data.{key}" for key in NOT_DATA), *(f"schedule.{key}" for key in NOT_SCHEDULE)}
Decision = Literal["holds", "does not hold", "not decided"]
RULE = (
    "A claim holds or does not hold if the 95 % confidence interval of its difference lies wholly on one side of the "
    "bound, and is not decided if the interval contains the bound or runs are missing. The interval is Welch's over "
    "seeds; for an error with one or two seeds it follows from the number of images, and for anything else one seed "
    "gives no interval and decides nothing."
)


class Judgement(NamedTuple):
    """A claim about one architecture, how it is measured here, and what came out."""

    rule: str
    arch: str
    sentence: str
    source: str
    measure: str
    numbers: str
    """What was measured, or what is missing."""
    verdict: Decision
    lacks_runs: bool = False
    command: str = ""
    """Makes the runs that are missing."""


def judge(comparison: Comparison) -> list[Judgement]:
    """Judge every claim on runs that may be compared."""
    present = {cell.arch for cell in comparison.cells}
    residual = [arch for arch in ("resnet_v1", "resnet_v2") if arch in present] or ["resnet_v1"]
    return [
        _judge(claim, comparison, arch) for claim in CLAIMS for arch in (residual if claim.of == "each" else [claim.of])
    ]


def _judge(claim: Claim, comparison: Comparison, arch: str) -> Judgement:
    decision: Decision = "not decided"
    lacks_runs, to_make = False, ""
    try:
        numbers, holds = claim.function(comparison, arch)
        if holds is not None:
            decision = "holds" if holds else "does not hold"
    except NotEnough as missing:
        lacks_runs = True
        numbers = f"Needs {missing}." + " To make the runs:" * bool(missing.options)
        to_make = to_make_runs(missing.options, comparison) if missing.options else ""
    source = claim.source if isinstance(claim.source, str) else claim.source[arch]
    split = SPLITS[held_out(comparison)]
    sentence, measure = (text.format(arch=arch, split=split) for text in (claim.sentence, claim.measure))
    return Judgement(claim.name, arch, sentence, source, measure, numbers, decision, lacks_runs, to_make)


def to_make_runs(options: str, comparison: Comparison) -> str:
    """Return the command that makes the missing runs by the recipe of those that are there."""
    run = comparison.runs[0]
    sweep = [] if options.startswith("experiment=") else ["-m"]
    parts = [*command("train").split(), *sweep, *options.split(), f"data={comparison.data}"]
    if (name := run.options.protocol.name) not in PAPERS:
        parts.append(f"protocol={name}")
    departures = run.manifest["departures"]
    if "data.num_train" in departures:  # counted in another tree of photographs
        parts.append(f"data.root={run.options.data.root}")
    given = {part.partition("=")[0] for part in parts}
    for key, value in departures.items():
        if key.startswith(("data.", "schedule.")) and key not in COUNTED | NO_PROTOCOL | given:
            written = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
            parts.append(f"{key}={written}")
    return shlex.join(parts)
