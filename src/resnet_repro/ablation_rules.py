"""The rules of the claims about the papers' ablations; of `resnet_repro.claim_rules`' kind."""

from resnet_repro.claim_rules import MARGIN, Found
from resnet_repro.config import family
from resnet_repro.evidence import (
    NotEnough,
    all_of,
    at_depth,
    common_depths,
    difference,
    error,
    error_difference,
    error_of,
    held_out,
    is_untrained,
    negated,
    plain_depths,
    quantity,
    untrained,
)
from resnet_repro.results import Cell, Protocol

FEW_UNITS = 56  # layers up to which A, B and C are compared: 34 in v1 Table 3, while C of 110 fails in v2 Table 1
REGULARISED = 164  # layers up to which v2 Sec. 4.2 says so: the loss of 1001 is the lowest of all [v2 Fig. 1, Sec. 4.1]
RECIPES = (" paper_v2", "")  # all with v2's warm-up, as v2 trained them [v2 Appendix], else each with its own
ORIGINAL = ["resnet_v1", "resnet_v2 order=original"]
FULL_PREACTIVATION = ["resnet_v2", "resnet_v1 order=full_preact"]


def options_differ_little(protocol: Protocol, arch: str) -> Found:
    split = held_out(protocol)
    usual = "A" if family(protocol.runs[0].config) == "cifar" else "B"  # which the name of a network leaves out
    names = [[arch] if option == usual else [f"{arch} {option}"] for option in "ABC"]
    options = f"arch={arch} arch.shortcut=A,B,C{at_depth(protocol)}"
    cells = _at_one_depth(protocol, *names, split=split, options=options, at_most=FEW_UNITS)
    estimates = [error(cell, split) for cell in cells]
    worst, best = (pick(estimates, key=lambda each: each.mean) for pick in (max, min))
    found = difference(worst, best, what="the largest")
    texts = ", ".join(f"{option}: {each.text}" for option, each in zip("ABC", estimates, strict=True))
    return f"{error_of(split)}: {texts}. Of the differences {found.text}", negated(found.exceeds(MARGIN))


def identity_is_best(protocol: Protocol, arch: str) -> Found:
    mixes = [[f"{arch} mix={mix}"] for mix in ("half_shortcut", "half_both", "exclusive_gate", "shortcut_gate")]
    names = [arch], ["plain"], *mixes, [f"{arch} C"], [f"{arch} dropout"]
    return _is_best(protocol, *names, options=f"experiment=v2_table1{at_depth(protocol)}")


def full_preactivation_is_best(protocol: Protocol, arch: str) -> Found:
    orders = ("bn_after_add", "relu_before_add", "relu_only_preact")
    others = [[f"{name} order={order}" for name in ("resnet_v1", "resnet_v2")] for order in orders]
    options = f"experiment=v2_table2{at_depth(protocol)}"
    return _is_best(protocol, FULL_PREACTIVATION, ORIGINAL, *others, options=options)


def full_preactivation_regularises(protocol: Protocol, arch: str) -> Found:
    split = held_out(protocol)
    depths = f"depth={plain_depths(protocol)} arch=resnet_v1,resnet_v2"
    names = (ORIGINAL, FULL_PREACTIVATION)
    old, new = _at_one_depth(protocol, *names, split=split, options=depths, at_most=REGULARISED)
    losses = [quantity(cell, lambda run: run.results.get("train/loss")) for cell in (new, old)]
    loss = difference(*losses, what="Training loss", unit="")
    unseen = error_difference(old, new, split)
    return f"{loss.text} {unseen.text}", all_of([loss.exceeds(), unseen.exceeds()])


def _is_best(protocol: Protocol, *names: list[str], options: str) -> Found:
    """Whether the first has a lower error than each other."""
    split = held_out(protocol)
    first, *others = (error(cell, split) for cell in _at_one_depth(protocol, *names, split=split, options=options))
    pairs = [(other, difference(other, first, what="")) for other in others]
    texts = [f"{other.text} ({found.value:+.2f} ± {found.half_width:.2f})" for other, found in pairs]
    numbers = f"{error_of(split)}, each difference with its 95 % interval: {first.text}; {', '.join(texts)}."
    return numbers, all_of(found.exceeds() for _, found in pairs)


def _at_one_depth(
    protocol: Protocol, *names: list[str], split: str, options: str, at_most: int | None = None
) -> list[Cell]:
    """A cell of each, at the greatest depth that all have and at which the first has learned something."""
    attempts = (
        common_depths(protocol, *_trained_as(recipe, *names), split=split, at_most=at_most) for recipe in RECIPES
    )
    found = next((each for each in attempts if each[0]), None)
    if found is None:
        there = {cell.arch for cell in protocol.cells}
        missing = [each[0] for each in names if not there & set(each)]
        depth = "one depth" + (f" up to {at_most} layers" if at_most else "")
        raise NotEnough(", ".join(missing) if missing else f"{depth} of {', '.join(n[0] for n in names)}", options)
    trained = [depth for depth, cell in found[0].items() if not is_untrained(cell)]
    if not trained:
        raise NotEnough(untrained(found[0][max(found[0])]))
    return [cells[trained[-1]] for cells in found]


def _trained_as(recipe: str, *names: list[str]) -> list[list[str]]:
    """The names with a recipe behind the architecture's; resnet_v2's own is v2's."""
    heads = ("plain", "resnet_v1")
    return [[" ".join([f"{w}{recipe}" if w in heads else w for w in name.split()]) for name in each] for each in names]
