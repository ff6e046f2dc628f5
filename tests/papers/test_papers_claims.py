"""The papers' own numbers as if they were our runs: none of the papers' claims may be refuted."""

from pathlib import Path
from typing import Any

import pytest

from resnet_repro.papers import rows
from resnet_repro.papers.claims import CLAIMS
from resnet_repro.papers.judgement import Judgement, judge
from resnet_repro.papers.rows import Published
from resnet_repro.runs.finished import read
from resnet_repro.runs.groups import group
from tests.helpers.synthetic_runs import write_constructed, write_layers, write_run
from tests.helpers.verdicts import STANDARD_FIVE

STD = 0.16  # over seeds, of v1's ResNet-110 on CIFAR-10
OVER = {20: 30.0, 60: 65.0}  # stands for "fail" and for "over 60"
SETS = {
    "v1 Table 2": ("v1 Table 2",),
    "v1 Table 3": ("v1 Table 3",),
    "v1 Table 6": ("v1 Table 6", "v1 Fig. 6"),
    "v2 Table 1": ("v2 Table 1",),
    "v2 Table 2": ("v2 Table 2",),
    "v2 Table 3": ("v2 Table 3",),
    "v1 Fig. 7": ("v1 Fig. 7",),
    "constructed": ("v1 Fig. 6", "constructed"),
    "all of it": ("v1 Table 2", "v1 Table 3", "v1 Table 6", "v1 Fig. 6", "v2 Table 1", "v2 Table 2", "v2 Table 3"),
}

# Numbers for what the papers only draw or say. Only their order counts.
TRAIN = {"plain": {20: 8.0, 32: 8.5, 44: 10.0, 56: 12.0, 110: 65.0}, "resnet_v1": {20: 4.0, 32: 2.0, 44: 1.0, 56: 0.7}}
"""Training errors of v1 Fig. 6 on CIFAR-10; from 110 layers on below 0.1 % [v1 Sec. 4.2, on 1202]."""
TESTS = {"plain": {20: 9.5, 32: 10.0, 44: 11.5, 56: 13.0}}
"""Test errors of plain networks of v1 Fig. 6, left."""
LOSS = {"resnet_v1": {1001: 0.01}, "resnet_v2": {110: 0.004, 164: 0.004, 1001: 0.001}}
"""Training losses: the original's is the lower in v2 Fig. 6 and the higher in v2 Fig. 1."""
RESPONSES = {"plain": {20: 1.4, 56: 1.2}, "resnet_v1": {20: 0.8, 56: 0.5, 110: 0.4}}
"""Standard deviations of v1 Fig. 7."""


Judged = dict[tuple[str, int], list[Judgement]]
"""The claims by set of tables and number of seeds."""

USUAL = {"cifar10": "A", "cifar100": "A", "imagenet": "B"}
NUMBERS = {str(row.cell): row.number for row in rows.registry() if row.number is not None}
"""Printed numbers by network, for rows of figures."""


def write_row(outputs: Path, row: Published) -> list[str]:
    """Write five seeds of a row around its number; return their names."""
    options = row.options
    data, arch, depth = options["data"], options["arch"], options["depth"]
    number = row.number or OVER.get(row.above or 0) or NUMBERS.get(str(row.cell)) or TESTS[arch][depth]
    departs = {
        key: value
        for key, value in options.items()
        if key.startswith("arch.") and (key, value) not in [("arch.gate_bias", -6), ("arch.shortcut", USUAL[data])]
    }
    if options["protocol"] != ("paper_v2" if arch == "resnet_v2" else "paper_v1"):
        departs["protocol"] = options["protocol"]
    if data == "imagenet":
        train, split = number, "val"
    else:
        train, split = TRAIN.get(arch, {}).get(depth, number if number > 20 else 0.1), "test"
    names = []
    for seed, z in enumerate(STANDARD_FIVE):
        names.append(f"{arch}-{depth}-{'-'.join(f'{key}={value}' for key, value in departs.items())}-s{seed}")
        if (outputs / data / names[-1]).exists():
            continue
        how: dict[str, Any] = {"test": None, split: number + STD * z, "train": train * (1 + 0.02 * z)}
        how |= {"data__name": data, "protocol__name": options["protocol"], "manifest": {"departures": departs}}
        how["results"] = {"train/loss": LOSS.get(arch, {}).get(depth, 0.002) * (1 + 0.02 * z)}
        folder = write_run(outputs, arch, depth, seed, name=names[-1], **how)
        response = RESPONSES.get(arch, {}).get(depth)
        stds = [1.0, *[response * (1 + 0.02 * z)] * 3] if response else []
        write_layers(folder, stds=stds, gradients={1: [1.0, 1.1, 0.9], 64_000: [0.8, 1.0, 1.0]})
    return names


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """Return the claims on each set of tables, on all its data sets, by set and number of seeds."""
    outputs = tmp_path_factory.mktemp("papers")
    sources = dict.fromkeys(source for sources in SETS.values() for source in sources if source != "constructed")
    names = {
        source: [name for row in rows.tables()[source] if not row.why for name in write_row(outputs, row)]
        for source in sources
    }
    for arch, train in (("plain", 8.0), ("resnet_v1", 0.6)):  # as good as the 20 layers [v1 Sec. 1]
        write_constructed(outputs, arch, 56, train=train, test=9.0, data__name="cifar10")
    names["constructed"] = [f"{arch}-56-s0__init_from=20" for arch in ("plain", "resnet_v1")]
    runs = {run.directory.name: run for run in read(outputs)[0]}

    def claims(which: str, num_seeds: int) -> list[Judgement]:
        chosen = {name: runs[name] for source in SETS[which] for name in names[source]}
        comparisons = group(run for run in chosen.values() if run.seed < num_seeds)
        return [claim for comparison in comparisons for claim in judge(comparison)]

    return {(which, num_seeds): claims(which, num_seeds) for which in SETS for num_seeds in (1, 5)}


RULES = [each.name for each in CLAIMS]


@pytest.mark.parametrize("rule", RULES)
def test_no_claim_is_refuted_by_the_papers_own_numbers(judged: Judged, rule: str) -> None:
    for on, claims in judged.items():
        for claim in (each for each in claims if each.rule == rule):
            assert claim.verdict in ("holds", "not decided"), (on, claim.numbers)


@pytest.mark.parametrize("rule", RULES)
def test_every_claim_is_judged_on_the_papers_own_numbers(judged: Judged, rule: str) -> None:
    """With five seeds each claim holds on some set of tables."""
    claims = [each for (_, seeds), claims in judged.items() for each in claims if seeds == 5 and each.rule == rule]
    assert "holds" in {claim.verdict for claim in claims}
