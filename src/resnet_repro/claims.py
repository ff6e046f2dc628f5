"""The papers' claims, judged on our runs: each verdict with its rule and the numbers it rests on."""

import math
from typing import Literal, NamedTuple

from resnet_repro.results import PAPERS, Cell, Protocol

Verdict = Literal["holds", "does not hold", "not enough runs"]

MARGIN = 1.0  # points of error: less counts as no degradation; plain-110 loses over 50 [v1 Sec. 4.2]
UNTRAINED = 50.0  # % training error of the shallowest net above which depth is not yet the question
SPLITS = {"train": "training", "test": "test", "val": "validation"}


class Claim(NamedTuple):
    """A sentence of the papers, how it is measured here, and what came out."""

    sentence: str
    source: str
    measure: str
    numbers: str  # what was measured, or what is missing
    verdict: Verdict
    command: str = ""  # that makes the runs that are missing


class Difference(NamedTuple):
    """Error of one cell minus that of another, in points, with its standard error."""

    points: float
    standard_error: float
    text: str


def judge(protocol: Protocol) -> list[Claim]:
    """The verdicts on one protocol: (a) degradation, (b) no degradation with shortcuts, (c) residual beats plain.

    Ablations are not judged: of most the papers say that they train badly. [v2 Tables 1, 2]
    """
    present = {cell.arch for cell in protocol.cells}
    residual = [arch for arch in ("resnet_v1", "resnet_v2") if arch in present] or ["resnet_v1"]
    return [
        _degradation(protocol),
        *(_no_degradation(protocol, arch) for arch in residual),
        *(_residual_beats_plain(protocol, arch) for arch in residual),
    ]


def _degradation(protocol: Protocol) -> Claim:
    claim = Claim(
        "Degradation: the deeper plain network has the higher training error.",
        "v1 Sec. 4.2, Fig. 1, Fig. 6 left",
        "Final training error of the deepest minus the shallowest plain network; "
        "holds above 2 standard errors of the difference.",
        "",
        "not enough runs",
    )
    cells = _trained(protocol, "plain")
    if len(cells) < 2:
        return _missing(claim, "two depths", protocol, "plain")
    diff = difference(cells[-1], cells[0], split="train")
    return claim._replace(numbers=diff.text, verdict=_holds(diff.points > 2 * diff.standard_error))


def _no_degradation(protocol: Protocol, arch: str) -> Claim:
    claim = Claim(
        f"No degradation with shortcuts: the deepest {arch} has no higher training error than the shallowest.",
        "v1 Sec. 4.2, Fig. 6 middle" if arch == "resnet_v1" else "v2 Sec. 5, Table 3, Fig. 1",
        "Final training error of the deepest minus the shallowest; "
        f"holds up to 2 standard errors of the difference plus {MARGIN} points.",
        "",
        "not enough runs",
    )
    cells = _trained(protocol, arch)
    if len(cells) < 2:
        return _missing(claim, "two depths", protocol, arch)
    shallowest = cells[0].error("train")
    if shallowest and shallowest.mean > UNTRAINED:  # two nets that have learned nothing are equally bad
        return claim._replace(numbers=f"{cells[0].name} itself has {shallowest} % training error: needs more steps.")
    diff = difference(cells[-1], cells[0], split="train")
    return claim._replace(numbers=diff.text, verdict=_holds(diff.points <= 2 * diff.standard_error + MARGIN))


def _residual_beats_plain(protocol: Protocol, arch: str) -> Claim:
    depths = _common(protocol, arch)
    split = "val" if depths and _pair(protocol, arch, depths[-1], "test") is None else "test"
    claim = Claim(
        f"At the greatest depth that both have, {arch} has a lower {SPLITS[split]} error than plain.",
        "v1 Sec. 4.2, Fig. 6" if arch == "resnet_v1" else "v1 Sec. 4.2, Fig. 6; v2 Sec. 5",
        f"Final {SPLITS[split]} error of plain minus {arch}; holds above 2 standard errors of the difference.",
        "",
        "not enough runs",
    )
    pair = _pair(protocol, arch, depths[-1], split) if depths else None
    if pair is None:
        return _missing(claim, "a depth that both have", protocol, f"plain,{arch}")
    diff = difference(*pair, split=split)
    return claim._replace(numbers=diff.text, verdict=_holds(diff.points > 2 * diff.standard_error))


def difference(left: Cell, right: Cell, *, split: str) -> Difference:
    """Error of `left` minus error of `right` on a split that both have measured."""
    parts, errors, single = [], [], []
    for cell in (left, right):
        error = cell.error(split)
        assert error is not None
        errors.append(standard_error(cell, split=split))
        single += [cell.name] if error.n == 1 else []
        diverged = f", {cell.num_diverged} of {len(cell.runs)} diverged" if cell.num_diverged else ""
        seeds = f" ({error.n} seeds)" if error.n > 1 else ""
        parts.append((error.mean, f"{cell.name} {error}{seeds}{diverged}"))
    points, sigma = parts[0][0] - parts[1][0], math.hypot(*errors)
    origin = {
        0: "uncertainty from the seeds",
        1: f"{single[0] if single else ''} has one seed: its uncertainty is from the number of images only",
        2: "one seed each; uncertainty from the number of images only",
    }[len(single)]
    text = (
        f"{SPLITS[split].capitalize()} error in %: {parts[0][1]}, {parts[1][1]}; "
        f"difference {points:+.2f} points, standard error {sigma:.2f} ({origin})."
    )
    return Difference(points, sigma, text)


def standard_error(cell: Cell, *, split: str) -> float:
    """Of a cell's mean error, in points: from its seeds, with one seed the binomial one of that many images."""
    error = cell.error(split)
    assert error is not None
    if error.n > 1:
        return error.std / math.sqrt(error.n)
    p = error.mean / 100
    (num_images,) = (run.results[f"num_{split}_images"] for run in cell.runs if f"{split}/error" in run.results)
    return 100 * math.sqrt(p * (1 - p) / num_images)


def _trained(protocol: Protocol, arch: str) -> list[Cell]:
    """Cells of an architecture with a training error, shallowest first."""
    return sorted(
        (cell for cell in protocol.cells if cell.arch == arch and cell.error("train")), key=lambda cell: cell.depth
    )


def _common(protocol: Protocol, arch: str) -> list[int]:
    """Depths that both plain and an architecture have, shallowest first."""
    plain = {cell.depth for cell in protocol.cells if cell.arch == "plain"}
    return sorted(plain & {cell.depth for cell in protocol.cells if cell.arch == arch})


def _pair(protocol: Protocol, arch: str, depth: int, split: str) -> tuple[Cell, Cell] | None:
    """The plain cell and the residual one of a depth, None where one lacks the error on the split."""
    cells = {cell.arch: cell for cell in protocol.cells if cell.depth == depth and cell.error(split)}
    return (cells["plain"], cells[arch]) if {"plain", arch} <= set(cells) else None


def _holds(condition: bool) -> Verdict:
    return "holds" if condition else "does not hold"


def _missing(claim: Claim, what: str, protocol: Protocol, archs: str) -> Claim:
    """The claim with what it lacks, and the command that makes it."""
    depths = sorted({20, 56, *(cell.depth for cell in protocol.cells if cell.arch == "plain")})
    command = f"python train.py -m depth={','.join(map(str, depths))} arch={archs} data={protocol.data}"
    if (name := protocol.runs[0].config["protocol"]["name"]) not in PAPERS:
        command += f" protocol={name}"
    if "schedule.steps" in protocol.runs[0].manifest["departures"]:
        command += f" schedule.steps={protocol.steps}"
    if protocol.val_size:
        command += f" data.val_size={protocol.val_size}"
    return claim._replace(numbers=f"Needs {what}. To make the runs:", command=command)
