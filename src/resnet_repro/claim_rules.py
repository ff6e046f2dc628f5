"""The rules by which the papers' claims are judged: what is measured on our runs, and when a claim holds.

A rule takes a protocol and an architecture, and returns its numbers in words and whether the claim holds: True, False,
or None if the numbers do not decide it. It raises NotEnough if the runs are not there. The claims, and the rules in
words, are in claims.yaml.
"""

import math
import statistics
from collections.abc import Callable

from resnet_repro.evidence import (
    SPLITS,
    Estimate,
    NotEnough,
    at_depth,
    by_depth,
    common_depths,
    difference,
    early_error,
    error_difference,
    first_depths,
    held_out,
    is_untrained,
    layer_table,
    negated,
    plain_depths,
    quantity,
    two_depths,
    untrained,
)
from resnet_repro.finished import Run
from resnet_repro.results import Cell, Protocol

MARGIN = (
    2.0  # points of error that count as little, as 0.84 of A, B and C [v1 Table 3]; plain-110 loses over 50 [Sec. 4.2]
)
EARLY = 0.25  # of the steps: before the rate is lowered for the first time
HEALTHY = 0.1  # gradients of the first third of the layers over those of the last: less is vanishing

Found = tuple[str, bool | None]
Rule = Callable[[Protocol, str], Found]


def degradation(protocol: Protocol, arch: str) -> Found:
    shallow, deep = two_depths(protocol, arch, split="train")
    found = error_difference(deep, shallow, "train")
    return found.text, found.exceeds()


def not_overfitting(protocol: Protocol, arch: str) -> Found:
    split = held_out(protocol)
    shallow, deep = two_depths(protocol, arch, split=split)
    unseen = error_difference(deep, shallow, split)
    if not unseen.exceeds():
        raise NotEnough(f"a deeper plain network with a higher {SPLITS[split]} error, else there is nothing to explain")
    seen = error_difference(deep, shallow, "train")
    return f"{unseen.text} {seen.text}", seen.exceeds()


def no_degradation(protocol: Protocol, arch: str) -> Found:
    shallow, deep = two_depths(protocol, arch, split="train")
    if is_untrained(shallow):
        raise NotEnough(untrained(shallow))
    found = error_difference(deep, shallow, "train")
    return found.text, negated(found.exceeds(MARGIN))


def gain_with_depth(protocol: Protocol, arch: str) -> Found:
    split = held_out(protocol)
    at_most = 110 if arch == "resnet_v1" else None  # of ResNet-1202 v1 says that it overfits
    shallow, deep = two_depths(protocol, arch, split=split, at_most=at_most)
    found = error_difference(shallow, deep, split)
    return found.text, found.exceeds()


def beats_plain(protocol: Protocol, arch: str) -> Found:
    split = held_out(protocol)
    plain, residual = _beside_plain(protocol, arch, split=split, which=-1)
    found = error_difference(plain, residual, split)
    return found.text, found.exceeds()


def converges_faster(protocol: Protocol, arch: str) -> Found:
    plain, residual = _beside_plain(protocol, arch, split="train", which=0)
    if is_untrained(plain):
        raise NotEnough(untrained(plain))
    what = f"Training error in %, mean of the first {EARLY:.0%} of the steps"
    found = difference(early_error(plain, part=EARLY), early_error(residual, part=EARLY), what=what)
    return found.text, found.exceeds()


def smaller_responses(protocol: Protocol, arch: str) -> Found:
    plain, residual = _beside_plain(protocol, arch, split="train", which=-1)
    found = difference(_response(plain), _response(residual), what="Median deviation of the responses", unit="")
    return found.text, found.exceeds()


def deeper_smaller_responses(protocol: Protocol, arch: str) -> Found:
    shallow, deep = two_depths(protocol, arch, split="train")
    found = difference(_response(shallow), _response(deep), what="Median deviation of the responses", unit="")
    return found.text, found.exceeds()


def healthy_gradients(protocol: Protocol, arch: str) -> Found:
    """One depth that degrades although its gradients reach the first layers is enough: there they are not the cause.

    That they die in networks deeper than those whose degradation the papers show does not refute the claim.
    """
    shallow, _ = two_depths(protocol, arch, split="train")
    if is_untrained(shallow):
        raise NotEnough(untrained(shallow))
    _, papers_depth = first_depths(protocol)
    deeper = [cell for cell in by_depth(protocol, arch) if cell is not shallow]
    losses = {cell.name: error_difference(cell, shallow, "train") for cell in deeper}
    degraded = [cell for cell in deeper if losses[cell.name].exceeds()]
    if not degraded:
        raise NotEnough("a plain network that degrades with depth, else there is nothing to explain")
    texts, reached = [], dict[int, bool]()
    for cell in degraded:
        lowest = _lowest_ratios(cell)
        if not lowest:
            continue
        reached[cell.num_layers] = all(ratio >= HEALTHY for ratio in lowest.values())
        seeds = f", lowest of {len(cell.measured)} seeds" if len(cell.measured) > 1 else ""
        end = "reach the first layers" if reached[cell.num_layers] else "die on the way to the first layers"
        ratios = ", ".join(f"{ratio:.2g} at step {step}" for step, ratio in lowest.items())
        loss = losses[cell.name].value
        texts.append(
            f"{cell.name} loses {loss:.2f} points to {shallow.name}, and its gradients {end}{seeds}: {ratios}."
        )
    diverged = [cell.name for cell in protocol.cells if cell.arch == arch and not cell.measured]
    texts += [f"{' and '.join(diverged)} diverged."] if diverged else []
    if not reached:
        raise NotEnough(f"runs of {', '.join(cell.name for cell in degraded)} that have measured their gradients")
    refutes = None if min(reached) > papers_depth else False
    return " ".join(texts), any(reached.values()) or refutes


def _lowest_ratios(cell: Cell) -> dict[int, float]:
    """The lowest ratio of any seed by step, NaN below all: that is 0 / 0, of a network that is dead."""
    ratios: dict[int, list[float]] = {}
    for run in cell.measured:
        for step, ratio in gradient_ratios(run).items():
            ratios.setdefault(step, []).append(ratio)
    return {step: min(each, key=lambda r: (not math.isnan(r), r)) for step, each in sorted(ratios.items())}


def gradient_ratios(run: Run) -> dict[int, float]:
    """Median gradient norm of the first third of the layers over that of the last third, at each measured step."""
    columns, norms = layer_table(run, "gradients.csv"), dict[int, list[float]]()
    for step, norm in zip(columns.get("step", []), columns.get("norm", []), strict=True):
        norms.setdefault(int(step), []).append(norm)
    third = {step: max(1, len(each) // 3) for step, each in norms.items()}
    medians = {
        step: (statistics.median(each[: third[step]]), statistics.median(each[-third[step] :]))
        for step, each in norms.items()
    }
    return {step: first / last if last else math.nan for step, (first, last) in medians.items()}


def not_found_by_the_solver(protocol: Protocol, arch: str) -> Found:
    constructed, scratch, text = _constructed(protocol, arch)
    found = error_difference(scratch, constructed, "train")
    return f"{text} {found.text}", found.exceeds()


def found_by_the_solver(protocol: Protocol, arch: str) -> Found:
    constructed, scratch, text = _constructed(protocol, arch)
    found = error_difference(scratch, constructed, "train")
    return f"{text} {found.text}", negated(found.exceeds(MARGIN))


def _beside_plain(protocol: Protocol, arch: str, *, split: str, which: int) -> tuple[Cell, Cell]:
    """The plain and the residual cell at the shallowest (0) or greatest (-1) depth that both have."""
    plain, residual = common_depths(protocol, ["plain"], [arch], split=split)
    if not plain:
        raise NotEnough("a depth that both have", f"depth={plain_depths(protocol)} arch=plain,{arch}")
    depth = list(plain)[which]
    return plain[depth], residual[depth]


def _constructed(protocol: Protocol, arch: str) -> tuple[Cell, Cell, str]:
    """A cell that begins as a shallower run, the one of the same depth from random weights, and how the first began."""
    names = [cell.arch for cell in protocol.cells if cell.arch == f"{arch} init_from={cell.init_from}"]
    constructed, scratch = common_depths(protocol, names, [arch], split="train")
    if not constructed:
        options = f"experiment=constructed_solution arch={arch}"
        if at_depth(protocol):  # and at a rate that falls at known steps, not at plateaus
            shallow, deep = first_depths(protocol)
            options += f" depth={shallow},{deep} init_from=null,{shallow} schedule.shape=steps"
        raise NotEnough("a run with constructed weights and one without", options)
    begun = constructed[max(constructed)]
    records = [run.manifest["begun_with_weights"] for run in begun.runs]
    ours, theirs = (statistics.fmean(r[key] for r in records) for key in ("train_error", "train_error_of_shallower"))
    differ = sum(record["num_predictions_that_differ"] for record in records)
    text = (
        f"{begun.name} begins with {ours:.2f} % error on the training images, as {theirs:.2f} % "
        f"with {begun.init_from} layers; {differ} predictions differ."
    )
    if ours > theirs:
        raise NotEnough(f"a construction that succeeds: {text}")
    return begun, scratch[begun.num_layers], text


def _response(cell: Cell) -> Estimate:
    """Median over the layers but the stem, whose response is a plain network's too."""

    def median(run: Run) -> float | None:
        stds = layer_table(run, "responses.csv").get("std", [])[1:]
        return statistics.median(stds) if stds else None

    return quantity(cell, median)
