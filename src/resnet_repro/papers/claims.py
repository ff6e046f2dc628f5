"""The papers' claims, judged on our runs: each verdict with its rule and the numbers it rests on."""

import shlex
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import yaml

from resnet_repro.papers import claim_rules
from resnet_repro.papers.estimates import NotEnough
from resnet_repro.runs.finished import NOT_DATA, NOT_SCHEDULE, PAPERS, SPLITS
from resnet_repro.runs.groups import Comparison, held_out

COUNTED = {"data.num_train", "data.num_classes"}
NO_PROTOCOL = {*(f"data.{key}" for key in NOT_DATA), *(f"schedule.{key}" for key in NOT_SCHEDULE)}
Verdict = Literal["holds", "does not hold", "not decided"]
RULE = (
    "A claim holds or does not hold if the 95 % confidence interval of its difference lies wholly on one side of the "
    "bound, and is not decided if the interval contains the bound or runs are missing. The interval is Welch's over "
    "seeds; for an error with one or two seeds it follows from the number of images, and for anything else one seed "
    "gives no interval and decides nothing."
)


class Claim(NamedTuple):
    """A sentence of the papers, how it is measured here, and what came out."""

    rule: str
    arch: str
    sentence: str
    source: str
    measure: str
    numbers: str  # what was measured, or what is missing
    verdict: Verdict
    lacks_runs: bool = False
    command: str = ""  # that makes the runs that are missing


@cache
def registry() -> tuple[dict[str, Any], ...]:
    """Every claim in words, in the order of claims.yaml."""
    text = resources.files("resnet_repro.papers").joinpath("claims.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text))


def rule(name: str) -> claim_rules.Rule:
    """The function of this name in claim_rules.py."""
    rule: claim_rules.Rule = getattr(claim_rules, name)
    return rule


def judge(comparison: Comparison) -> list[Claim]:
    """Judge every claim on a group of runs."""
    present = {cell.arch for cell in comparison.cells}
    residual = [arch for arch in ("resnet_v1", "resnet_v2") if arch in present] or ["resnet_v1"]
    return [
        _judge(entry, comparison, arch)
        for entry in registry()
        for arch in (residual if entry["arch"] == "each" else [entry["arch"]])
    ]


def _judge(entry: dict[str, Any], comparison: Comparison, arch: str) -> Claim:
    words = {
        "arch": arch,
        "split": SPLITS[held_out(comparison)],
        "margin": claim_rules.MARGIN,
        "healthy": claim_rules.HEALTHY,
        "few_units": claim_rules.FEW_UNITS,
        "regularised": claim_rules.REGULARISED,
    }
    source = entry["source"] if isinstance(entry["source"], str) else entry["source"][arch]
    verdict: Verdict = "not decided"
    lacks_runs, command = False, ""
    try:
        numbers, holds = rule(entry["rule"])(comparison, arch)
        if holds is not None:
            verdict = "holds" if holds else "does not hold"
    except NotEnough as missing:
        lacks_runs = True
        numbers = f"Needs {missing}." + " To make the runs:" * bool(missing.options)
        command = _command(missing.options, comparison) if missing.options else ""
    texts = [entry[key].format(**words) for key in ("sentence", "measure")]
    return Claim(entry["rule"], arch, texts[0], source, texts[1], numbers, verdict, lacks_runs, command)


def _command(options: str, comparison: Comparison) -> str:
    """Return the command that makes the missing runs by the recipe of those that are there."""
    run = comparison.runs[0]
    sweep = [] if options.startswith("experiment=") else ["-m"]
    parts = ["python", "train.py", *sweep, *options.split(), f"data={comparison.data}"]
    if (name := run.config["protocol"]["name"]) not in PAPERS:
        parts.append(f"protocol={name}")
    departures = run.manifest["departures"]
    if "data.num_train" in departures:  # counted in another tree of photographs
        parts.append(f"data.root={run.config['data']['root']}")
    asked = {part.partition("=")[0] for part in parts}
    for key, value in departures.items():
        if key.startswith(("data.", "schedule.")) and key not in COUNTED | NO_PROTOCOL | asked:
            written = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
            parts.append(f"{key}={written}")
    return shlex.join(parts)
