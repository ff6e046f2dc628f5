"""The rules by which the papers' claims are judged: what is measured on our runs, and when a claim holds.

A rule takes a protocol and an architecture, and returns its numbers in words and whether the claim holds. It raises
NotEnough where the runs are not there. The claims, and the rules in words, are in claims.yaml.
"""

import math
import statistics
from collections.abc import Callable

from resnet_repro.evidence import (
    SPLITS,
    Estimate,
    NotEnough,
    by_depth,
    common_depths,
    difference,
    early_error,
    error,
    held_out,
    plain_depths,
    quantity,
    two_depths,
)
from resnet_repro.results import Cell, Protocol, Run

MARGIN = 1.0  # points of error: less counts as no degradation; plain-110 loses over 50 [v1 Sec. 4.2]
UNTRAINED = 50.0  # % training error of the shallowest net above which depth is not yet the question
EARLY = 0.25  # of the steps: before the rate is lowered for the first time
HEALTHY = 0.1  # gradients of the first third of the layers over those of the last: less is vanishing

Found = tuple[str, bool]
Rule = Callable[[Protocol, str], Found]


def _error_of(split: str) -> str:
    return f"{SPLITS[split].capitalize()} error in %"


def degradation(protocol: Protocol, arch: str) -> Found:
    shallow, deep = two_depths(protocol, arch, split="train")
    found = difference(error(deep, "train"), error(shallow, "train"), what=_error_of("train"))
    return found.text, found.exceeds()


def not_overfitting(protocol: Protocol, arch: str) -> Found:
    split = held_out(protocol)
    shallow, deep = two_depths(protocol, arch, split=split)
    unseen = difference(error(deep, split), error(shallow, split), what=_error_of(split))
    if not unseen.exceeds():
        raise NotEnough(f"a deeper plain network with a higher {SPLITS[split]} error, else there is nothing to explain")
    seen = difference(error(deep, "train"), error(shallow, "train"), what=_error_of("train"))
    return f"{unseen.text} {seen.text}", seen.exceeds()


def no_degradation(protocol: Protocol, arch: str) -> Found:
    shallow, deep = two_depths(protocol, arch, split="train")
    _refuse_untrained(shallow)
    found = difference(error(deep, "train"), error(shallow, "train"), what=_error_of("train"))
    return found.text, not found.exceeds(MARGIN)


def gain_with_depth(protocol: Protocol, arch: str) -> Found:
    split = held_out(protocol)
    at_most = 110 if arch == "resnet_v1" else None  # of ResNet-1202 v1 says that it overfits
    shallow, deep = two_depths(protocol, arch, split=split, at_most=at_most)
    found = difference(error(shallow, split), error(deep, split), what=_error_of(split))
    return found.text, found.exceeds()


def beats_plain(protocol: Protocol, arch: str) -> Found:
    split = held_out(protocol)
    plain, residual = _beside_plain(protocol, arch, split=split, which=-1)
    found = difference(error(plain, split), error(residual, split), what=_error_of(split))
    return found.text, found.exceeds()


def converges_faster(protocol: Protocol, arch: str) -> Found:
    plain, residual = _beside_plain(protocol, arch, split="train", which=0)
    _refuse_untrained(plain)
    what = f"Training error in %, mean of the first {EARLY:.0%} of the steps"
    found = difference(early_error(plain, part=EARLY), early_error(residual, part=EARLY), what=what)
    return found.text, found.exceeds()


def options_differ_little(protocol: Protocol, arch: str) -> Found:
    split = held_out(protocol)
    names = [arch], [f"{arch} B"], [f"{arch} C"]
    cells = _at_one_depth(protocol, *names, split=split, options=f"arch={arch} arch.shortcut=A,B,C")
    estimates = [error(cell, split) for cell in cells]
    worst, best = (pick(estimates, key=lambda each: each.mean) for pick in (max, min))
    found = difference(worst, best, what="the largest")
    texts = ", ".join(f"{option}: {each.text}" for option, each in zip("ABC", estimates, strict=True))
    return f"{_error_of(split)}: {texts}. Of the differences {found.text}", not found.exceeds(MARGIN)


def smaller_responses(protocol: Protocol, arch: str) -> Found:
    plain, residual = _beside_plain(protocol, arch, split="train", which=-1)
    found = difference(_response(plain), _response(residual), what="Median deviation of the responses", unit="")
    return found.text, found.exceeds()


def deeper_smaller_responses(protocol: Protocol, arch: str) -> Found:
    shallow, deep = two_depths(protocol, arch, split="train")
    found = difference(_response(shallow), _response(deep), what="Median deviation of the responses", unit="")
    return found.text, found.exceeds()


def healthy_gradients(protocol: Protocol, arch: str) -> Found:
    cells = by_depth(protocol, arch)
    if not cells:
        raise NotEnough("a plain network", f"depth={plain_depths(protocol)} arch={arch}")
    ratios: dict[int, list[float]] = {}
    for run in cells[-1].runs:
        for step, ratio in gradient_ratios(run).items():
            ratios.setdefault(step, []).append(ratio)
    if not ratios:
        raise NotEnough(f"runs of {cells[-1].name} that have measured their gradients")
    lowest = {step: min(each, key=lambda r: (not math.isnan(r), r)) for step, each in sorted(ratios.items())}
    text = ", ".join(f"{ratio:.2g} at step {step}" for step, ratio in lowest.items())
    seeds = f", lowest of {len(cells[-1].runs)} seeds" if len(cells[-1].runs) > 1 else ""
    return f"{cells[-1].name}{seeds}: {text}.", all(ratio >= HEALTHY for ratio in lowest.values())


def gradient_ratios(run: Run) -> dict[int, float]:
    """Median gradient norm of the first third of the layers over that of the last third, at each measured step."""
    columns, norms = run.layer_table("gradients.csv"), dict[int, list[float]]()
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
    found = difference(error(scratch, "train"), error(constructed, "train"), what="Trained, training error in %")
    return f"{text} {found.text}", found.exceeds()


def found_by_the_solver(protocol: Protocol, arch: str) -> Found:
    constructed, scratch, text = _constructed(protocol, arch)
    found = difference(error(scratch, "train"), error(constructed, "train"), what="Trained, training error in %")
    return f"{text} {found.text}", not found.exceeds(MARGIN)


def identity_is_best(protocol: Protocol, arch: str) -> Found:
    mixes = [[f"{arch} mix={mix}"] for mix in ("half_shortcut", "half_both", "exclusive_gate", "shortcut_gate")]
    names = [arch], ["plain"], *mixes, [f"{arch} C"], [f"{arch} dropout"]
    return _is_best(protocol, *names, options="experiment=v2_table1")


def full_preactivation_is_best(protocol: Protocol, arch: str) -> Found:
    orders = ("bn_after_add", "relu_before_add", "relu_only_preact")
    others = [[f"{name} order={order}" for name in ("resnet_v1", "resnet_v2")] for order in orders]
    return _is_best(protocol, FULL_PREACTIVATION, ORIGINAL, *others, options="experiment=v2_table2")


def full_preactivation_regularises(protocol: Protocol, arch: str) -> Found:
    split = held_out(protocol)
    depths = f"depth={plain_depths(protocol)} arch=resnet_v1,resnet_v2"
    old, new = _at_one_depth(protocol, ORIGINAL, FULL_PREACTIVATION, split=split, options=depths)
    losses = [quantity(cell, lambda run: run.results.get("train/loss")) for cell in (new, old)]
    loss = difference(*losses, what="Training loss", unit="")
    unseen = difference(error(old, split), error(new, split), what=_error_of(split))
    return f"{loss.text} {unseen.text}", loss.exceeds() and unseen.exceeds()


ORIGINAL = ["resnet_v1", "resnet_v2 order=original"]
FULL_PREACTIVATION = ["resnet_v2", "resnet_v1 order=full_preact"]


def _is_best(protocol: Protocol, *names: list[str], options: str) -> Found:
    """Whether the first has a lower error than each other."""
    split = held_out(protocol)
    first, *others = (error(cell, split) for cell in _at_one_depth(protocol, *names, split=split, options=options))
    pairs = [(other, difference(other, first, what="")) for other in others]
    texts = [f"{other.text} ({found.value:+.2f}, standard error {found.standard_error:.2f})" for other, found in pairs]
    return f"{_error_of(split)}: {first.text}; {', '.join(texts)}.", all(found.exceeds() for _, found in pairs)


def _at_one_depth(protocol: Protocol, *names: list[str], split: str, options: str) -> list[Cell]:
    """A cell of each, at the greatest depth that all have and at which the first has learned something."""
    found = common_depths(protocol, *names, split=split)
    if not found[0]:
        there = {cell.arch for cell in protocol.cells}
        missing = [each[0] for each in names if not there & set(each)]
        raise NotEnough(", ".join(missing) if missing else f"one depth of {', '.join(n[0] for n in names)}", options)
    trained = [depth for depth, cell in found[0].items() if not _is_untrained(cell)]
    if not trained:
        _refuse_untrained(found[0][max(found[0])])
    return [cells[trained[-1]] for cells in found]


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
    return begun, scratch[begun.depth], text


def _response(cell: Cell) -> Estimate:
    """Median over the layers but the stem, whose response is a plain network's too."""

    def median(run: Run) -> float | None:
        stds = run.layer_table("responses.csv").get("std", [])[1:]
        return statistics.median(stds) if stds else None

    return quantity(cell, median)


def _refuse_untrained(cell: Cell) -> None:
    """Two networks that have learned nothing are equally bad, which proves nothing."""
    if _is_untrained(cell):
        raise NotEnough(f"more steps: {cell.name} itself has {cell.error('train')} % training error")


def _is_untrained(cell: Cell) -> bool:
    found = cell.error("train")
    return found is not None and found.mean > UNTRAINED
