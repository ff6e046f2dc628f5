"""The papers' claims: each is a function that measures the claim on our runs, under its sentence, source and rule.

v1 = arXiv:1512.03385, v2 = arXiv:1603.05027. To add a claim, add a function here. The report shows the claims in the
order of this file.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from resnet_repro.papers.estimates import (
    Difference,
    Estimate,
    NotEnough,
    all_of,
    at_depth,
    by_depth,
    common_depths,
    difference,
    early_error,
    error,
    error_difference,
    error_of,
    first_depths,
    is_untrained,
    negated,
    plain_depths,
    quantity,
    two_depths,
    untrained,
)
from resnet_repro.runs.finished import SPLITS, FinishedRun, layer_table
from resnet_repro.runs.groups import Cell, Comparison, held_out

MARGIN = 2.0
"""Points of error that count as small: A, B, C differ by 0.84 [v1 Table 3]; plain-110 loses over 50 [v1 Sec. 4.2]."""
EARLY = 0.25
"""The share of the steps that counts as early; the rate is lowered for the first time after it."""
HEALTHY = 0.1
"""Gradients of the first third of the layers over those of the last third: below this they vanish."""
FEW_UNITS = 56
"""Layers up to which A, B and C are compared: v1 Table 3 has 34, and C with 110 fails in v2 Table 1."""
REGULARISED = 164
"""v2 claims regularisation up to this depth [v2 Sec. 4.2]. With 1001 its loss is the lowest [v2 Fig. 1, Sec. 4.1]."""
RECIPES = (" paper_v2", "")
"""Compare networks that all have v2's warm-up, as v2 trained them [v2 Appendix], else each with its own."""
ORIGINAL = ["resnet_v1", "resnet_v2 order=original"]
FULL_PREACTIVATION = ["resnet_v2", "resnet_v1 order=full_preact"]

Found = tuple[str, bool | None]
"""The numbers in words, and whether the claim holds; None if the numbers do not decide it."""
Rule = Callable[[Comparison, str], Found]
"""Measures a claim on runs that may be compared, for one architecture; raises NotEnough if runs are missing."""


@dataclass(frozen=True)
class Claim:
    """A sentence of the papers and how it is measured. `{arch}` and `{split}` in its texts are filled in."""

    function: Rule
    of: str
    """The architecture that the claim is about; `each`: resnet_v1 and resnet_v2, whichever have runs."""
    source: str | Mapping[str, str]
    """Where the papers say so; by architecture if the source depends on it."""
    sentence: str
    measure: str
    """The rule in words. A difference is above a bound if its whole 95 % interval is (`judgement.RULE`)."""

    @property
    def name(self) -> str:
        return self.function.__name__


CLAIMS: list[Claim] = []


def claim(*, of: str, source: str | Mapping[str, str], sentence: str, measure: str) -> Callable[[Rule], Rule]:
    """Add the function below to `CLAIMS`, with these texts."""

    def added(function: Rule) -> Rule:
        CLAIMS.append(Claim(function, of, source, sentence, measure))
        return function

    return added


@claim(
    of="plain",
    source="v1 Sec. 4.2, Fig. 1, Fig. 6 left",
    sentence="Degradation: the deeper plain network has the higher training error.",
    measure="Final training error of the deepest minus the shallowest plain network; holds above zero.",
)
def degradation(comparison: Comparison, arch: str) -> Found:
    effect = deepening(comparison, arch)
    return effect.gap.text, effect.holds


@claim(
    of="plain",
    source="v1 Sec. 1",
    sentence="It is not overfitting: the deeper plain network's training error is higher, not only its {split} error.",
    measure=(
        "Judged if the final {split} error of the deepest minus the shallowest plain network is above zero; holds if "
        "the same difference of training errors is also above zero."
    ),
)
def not_overfitting(comparison: Comparison, arch: str) -> Found:
    split = held_out(comparison)
    shallow, deep = two_depths(comparison, arch, split=split)
    unseen = error_difference(deep, shallow, split)
    if not unseen.exceeds():
        raise NotEnough(f"a deeper plain network with a higher {SPLITS[split]} error, else there is nothing to explain")
    seen = error_difference(deep, shallow, "train")
    return f"{unseen.text} {seen.text}", seen.exceeds()


@claim(
    of="plain",
    source="v1 Sec. 4.1",
    sentence=(
        "Vanishing gradients are not the cause: with batch norm, plain networks degrade although gradients reach their "
        "first layers."
    ),
    measure=(
        "At every depth whose training error is above the shallowest plain network's, the median gradient norm of the "
        "first third of the layers over that of the last third. Gradients reach the first layers if it is at least "
        f"{HEALTHY} at each of five steps from the first to the last; holds if they do at one of these depths, because "
        "another cause is then at work there, and does not hold if they die at all of them and one has no more layers "
        "than v1's 56 (34 on ImageNet)."
    ),
)
def healthy_gradients(comparison: Comparison, arch: str) -> Found:
    """One depth that degrades although its gradients reach the first layers is enough: there they are not the cause.

    Gradients that die only in networks deeper than those whose degradation the papers show do not refute the claim.
    """
    shallow, _ = two_depths(comparison, arch, split="train")
    if is_untrained(shallow):
        raise NotEnough(untrained(shallow))
    _, papers_depth = first_depths(comparison)
    deeper = [cell for cell in by_depth(comparison, arch) if cell is not shallow]
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
    diverged = [cell.name for cell in comparison.cells if cell.arch == arch and not cell.measured]
    texts += [f"{' and '.join(diverged)} diverged."] if diverged else []
    if not reached:
        raise NotEnough(f"runs of {', '.join(cell.name for cell in degraded)} that have measured their gradients")
    refutes = None if min(reached) > papers_depth else False
    return " ".join(texts), any(reached.values()) or refutes


@claim(
    of="plain",
    source="v1 Sec. 1",
    sentence=(
        "The deeper plain network has a solution as good as the shallower one's, by construction, and the solver does "
        "not find it."
    ),
    measure=(
        "The deepest network that began as a trained shallower network with identity layers inserted has the same "
        "error on the training images. After further training: training error of the network from random weights minus "
        "that of the constructed network; holds above zero."
    ),
)
def not_found_by_the_solver(comparison: Comparison, arch: str) -> Found:
    constructed, scratch, text = _constructed(comparison, arch)
    gap = error_difference(scratch, constructed, "train")
    return f"{text} {gap.text}", gap.exceeds()


@claim(
    of="each",
    source={"resnet_v1": "v1 Sec. 4.2, Fig. 6 middle", "resnet_v2": "v2 Sec. 4.1 and 4.2, Table 3, Fig. 1"},
    sentence="No degradation with shortcuts: the deepest {arch} has no higher training error than the shallowest.",
    measure=f"Final training error of the deepest minus the shallowest; holds below {MARGIN:g} points.",
)
def no_degradation(comparison: Comparison, arch: str) -> Found:
    effect = deepening(comparison, arch)
    return effect.gap.text, effect.holds


@claim(
    of="each",
    source={"resnet_v1": "v1 Sec. 4.2, Table 6", "resnet_v2": "v2 Sec. 5, Tables 3 and 4"},
    sentence="Depth pays: the deepest {arch} has a lower {split} error than the shallowest.",
    measure="Final {split} error of the shallowest minus the deepest, in v1 up to 110 layers; holds above zero.",
)
def gain_with_depth(comparison: Comparison, arch: str) -> Found:
    split = held_out(comparison)
    at_most = 110 if arch == "resnet_v1" else None  # of ResNet-1202 v1 says that it overfits
    shallow, deep = two_depths(comparison, arch, split=split, at_most=at_most)
    gap = error_difference(shallow, deep, split)
    return gap.text, gap.exceeds()


@claim(
    of="each",
    source="v1 Sec. 1, Sec. 3.1",
    sentence="From random weights, the solver gets a deeper {arch} as far as from the constructed solution.",
    measure=(
        "Final training error from random weights minus that of the deepest network that began as a trained shallower "
        f"network; holds below {MARGIN:g} points."
    ),
)
def found_by_the_solver(comparison: Comparison, arch: str) -> Found:
    constructed, scratch, text = _constructed(comparison, arch)
    gap = error_difference(scratch, constructed, "train")
    return f"{text} {gap.text}", negated(gap.exceeds(MARGIN))


@claim(
    of="each",
    source={"resnet_v1": "v1 Sec. 4.2, Fig. 6", "resnet_v2": "v1 Sec. 4.2, Fig. 6; v2 Sec. 3.1, Table 1"},
    sentence="At the greatest depth that both have, {arch} has a lower {split} error than plain.",
    measure="Final {split} error of plain minus {arch}; holds above zero.",
)
def beats_plain(comparison: Comparison, arch: str) -> Found:
    split = held_out(comparison)
    plain, residual = _beside_plain(comparison, arch, split=split, which=-1)
    gap = error_difference(plain, residual, split)
    return gap.text, gap.exceeds()


@claim(
    of="each",
    source="v1 Sec. 4.1",
    sentence="Where plain also trains well, {arch} converges faster early on.",
    measure=(
        "At the least depth that both have, the training error averaged over the first quarter of the steps, plain "
        "minus {arch}; holds above zero."
    ),
)
def converges_faster(comparison: Comparison, arch: str) -> Found:
    plain, residual = _beside_plain(comparison, arch, split="train", which=0)
    if is_untrained(plain):
        raise NotEnough(untrained(plain))
    what = f"Training error in %, mean of the first {EARLY:.0%} of the steps"
    gap = difference(early_error(plain, part=EARLY), early_error(residual, part=EARLY), what=what)
    return gap.text, gap.exceeds()


@claim(
    of="resnet_v1",
    source="v1 Sec. 4.1, Table 3",
    sentence=f"Up to {FEW_UNITS} layers, shortcuts with projections (B, C) and without (A) differ little.",
    measure=(
        f"The largest difference of final {{split}} error among A, B and C at the greatest depth up to {FEW_UNITS} "
        f"layers that all have; holds below {MARGIN:g} points. v1 says so for 34 layers; with 110, C is far worse [v2 "
        "Sec. 3.1, Table 1]."
    ),
)
def options_differ_little(comparison: Comparison, arch: str) -> Found:
    split = held_out(comparison)
    usual = "A" if comparison.runs[0].options.family == "cifar" else "B"  # which the name of a network leaves out
    names = [[arch] if option == usual else [f"{arch} {option}"] for option in "ABC"]
    options = f"arch={arch} arch.shortcut=A,B,C{at_depth(comparison)}"
    cells = _at_one_depth(comparison, *names, split=split, options=options, at_most=FEW_UNITS)
    estimates = [error(cell, split) for cell in cells]
    worst, best = (pick(estimates, key=lambda each: each.mean) for pick in (max, min))
    gap = difference(worst, best, what="the largest")
    texts = ", ".join(f"{option}: {each.text}" for option, each in zip("ABC", estimates, strict=True))
    return f"{error_of(split)}: {texts}. Of the differences {gap.text}", negated(gap.exceeds(MARGIN))


@claim(
    of="resnet_v1",
    source="v1 Sec. 4.2, Fig. 7",
    sentence="Residual functions are close to zero: the layers of {arch} respond less strongly than those of plain.",
    measure=(
        "Median over the layers of the standard deviation of their responses, at the greatest depth that both have, "
        "plain minus {arch}; holds above zero. Only several seeds tell how uncertain that is."
    ),
)
def smaller_responses(comparison: Comparison, arch: str) -> Found:
    plain, residual = _beside_plain(comparison, arch, split="train", which=-1)
    gap = difference(_response(plain), _response(residual), what="Median deviation of the responses", unit="")
    return gap.text, gap.exceeds()


@claim(
    of="resnet_v1",
    source="v1 Sec. 4.2, Fig. 7",
    sentence="The deeper {arch} is, the less each layer responds.",
    measure=(
        "Median over the layers of the standard deviation of their responses, the shallowest minus the deepest; holds "
        "above zero. Only several seeds tell how uncertain that is."
    ),
)
def deeper_smaller_responses(comparison: Comparison, arch: str) -> Found:
    shallow, deep = two_depths(comparison, arch, split="train")
    gap = difference(_response(shallow), _response(deep), what="Median deviation of the responses", unit="")
    return gap.text, gap.exceeds()


@claim(
    of="resnet_v1",
    source="v2 Sec. 3, Table 1",
    sentence="Identity shortcuts are better than every scaled, gated, convolutional or dropped one.",
    measure=(
        "At the greatest depth that all rows of v2 Table 1 have, the final {split} error of each row minus the "
        "identity's; holds if every difference is above zero."
    ),
)
def identity_is_best(comparison: Comparison, arch: str) -> Found:
    mixes = [[f"{arch} mix={mix}"] for mix in ("half_shortcut", "half_both", "exclusive_gate", "shortcut_gate")]
    names = [arch], ["plain"], *mixes, [f"{arch} C"], [f"{arch} dropout"]
    return _is_best(comparison, *names, options=f"experiment=v2_table1{at_depth(comparison)}")


@claim(
    of="resnet_v2",
    source="v2 Sec. 4.1, Table 2",
    sentence="Full pre-activation is the best order of activation.",
    measure=(
        "At the greatest depth that all rows of v2 Table 2 have, the final {split} error of each row minus full "
        "pre-activation's; holds if every difference is above zero."
    ),
)
def full_preactivation_is_best(comparison: Comparison, arch: str) -> Found:
    orders = ("bn_after_add", "relu_before_add", "relu_only_preact")
    others = [[f"{name} order={order}" for name in ("resnet_v1", "resnet_v2")] for order in orders]
    options = f"experiment=v2_table2{at_depth(comparison)}"
    return _is_best(comparison, FULL_PREACTIVATION, ORIGINAL, *others, options=options)


@claim(
    of="resnet_v2",
    source="v2 Sec. 4.2, Fig. 6",
    sentence=(
        f"Full pre-activation regularises: up to {REGULARISED} layers, its training loss is higher and its {{split}} "
        "error lower than the original's."
    ),
    measure=(
        f"At the greatest depth up to {REGULARISED} layers that both have, the final training loss of v2 minus v1 and "
        f"the final {{split}} error of v1 minus v2; holds if both are above zero. The loss needs several seeds. With "
        "1001 layers, v2's loss is the lower [v2 Sec. 4.1, Fig. 1]."
    ),
)
def full_preactivation_regularises(comparison: Comparison, arch: str) -> Found:
    split = held_out(comparison)
    depths = f"depth={plain_depths(comparison)} arch=resnet_v1,resnet_v2"
    names = (ORIGINAL, FULL_PREACTIVATION)
    old, new = _at_one_depth(comparison, *names, split=split, options=depths, at_most=REGULARISED)
    losses = [quantity(cell, lambda run: run.results.get("train/loss")) for cell in (new, old)]
    loss = difference(*losses, what="Training loss", unit="")
    unseen = error_difference(old, new, split)
    return f"{loss.text} {unseen.text}", all_of([loss.exceeds(), unseen.exceeds()])


# --- what several claims measure --------------------------------------------------------------------------------------


class Deepening(NamedTuple):
    """What depth does to an architecture: the final training error of its deepest network minus its shallowest's."""

    shallow: Cell
    deep: Cell
    gap: Difference
    holds: bool | None
    """Whether the papers' claim holds: plain networks degrade, residual ones do not; None if that is not decided."""


def deepening(comparison: Comparison, arch: str) -> Deepening:
    """Return what depth does to plain networks or to a residual architecture.

    Raise NotEnough if there is one depth only, or if even the shallowest residual network is untrained.
    """
    shallow, deep = two_depths(comparison, arch, split="train")
    if arch != "plain" and is_untrained(shallow):
        raise NotEnough(untrained(shallow))
    gap = error_difference(deep, shallow, "train")
    return Deepening(shallow, deep, gap, gap.exceeds() if arch == "plain" else negated(gap.exceeds(MARGIN)))


def _lowest_ratios(cell: Cell) -> dict[int, float]:
    """Return the lowest ratio of any seed by step. NaN is 0 / 0, a dead network, and counts as the lowest."""
    ratios: dict[int, list[float]] = {}
    for run in cell.measured:
        for step, ratio in gradient_ratios(run).items():
            ratios.setdefault(step, []).append(ratio)
    return {step: min(each, key=lambda r: (not math.isnan(r), r)) for step, each in sorted(ratios.items())}


def gradient_ratios(run: FinishedRun) -> dict[int, float]:
    """Return by measured step the median gradient norm of the first third of the layers over that of the last third."""
    columns, norms = layer_table(run, "gradients.csv"), dict[int, list[float]]()
    for step, norm in zip(columns.get("step", []), columns.get("norm", []), strict=True):
        norms.setdefault(int(step), []).append(norm)
    third = {step: max(1, len(each) // 3) for step, each in norms.items()}
    medians = {
        step: (statistics.median(each[: third[step]]), statistics.median(each[-third[step] :]))
        for step, each in norms.items()
    }
    return {step: first / last if last else math.nan for step, (first, last) in medians.items()}


def _beside_plain(comparison: Comparison, arch: str, *, split: str, which: int) -> tuple[Cell, Cell]:
    """Return the plain and the residual cell at the least (0) or greatest (-1) depth that both have."""
    plain, residual = common_depths(comparison, ["plain"], [arch], split=split)
    if not plain:
        raise NotEnough("a depth that both have", f"depth={plain_depths(comparison)} arch=plain,{arch}")
    depth = list(plain)[which]
    return plain[depth], residual[depth]


def _constructed(comparison: Comparison, arch: str) -> tuple[Cell, Cell, str]:
    """Return a cell that began as a shallower run, the cell from random weights beside it, and how the first began."""
    names = [cell.arch for cell in comparison.cells if cell.arch == f"{arch} init_from={cell.init_from}"]
    constructed, scratch = common_depths(comparison, names, [arch], split="train")
    if not constructed:
        options = f"experiment=constructed_solution arch={arch}"
        if at_depth(comparison):  # and at a rate that falls at known steps, not at plateaus
            shallow, deep = first_depths(comparison)
            options += f" depth={shallow},{deep} init_from=null,{shallow} schedule.shape=steps"
        raise NotEnough("a run with constructed weights and one without", options)
    begun = constructed[max(constructed)]
    records = [run.manifest["begun_with_weights"] for run in begun.runs]
    ours, theirs = (statistics.fmean(r[key] for r in records) for key in ("train_error", "train_error_of_shallower"))
    differ = sum(record["num_predictions_that_differ"] for record in records)
    text = (
        f"{begun.name} begins with {ours:.2f} % error on the training images, beside {theirs:.2f} % "
        f"with {begun.init_from} layers; {differ} predictions differ."
    )
    if ours > theirs:
        raise NotEnough(f"a construction that succeeds: {text}")
    return begun, scratch[begun.num_layers], text


def _response(cell: Cell) -> Estimate:
    """Return the median response of the layers without the stem, which is the same in a plain network."""

    def median(run: FinishedRun) -> float | None:
        stds = layer_table(run, "responses.csv").get("std", [])[1:]
        return statistics.median(stds) if stds else None

    return quantity(cell, median)


def _is_best(comparison: Comparison, *names: list[str], options: str) -> Found:
    """Return whether the first network has a lower error than each of the others."""
    split = held_out(comparison)
    first, *others = (error(cell, split) for cell in _at_one_depth(comparison, *names, split=split, options=options))
    pairs = [(other, difference(other, first, what="")) for other in others]
    texts = [f"{other.text} ({gap.value:+.2f} ± {gap.half_width:.2f})" for other, gap in pairs]
    numbers = f"{error_of(split)}, each difference with its 95 % interval: {first.text}; {', '.join(texts)}."
    return numbers, all_of(gap.exceeds() for _, gap in pairs)


def _at_one_depth(
    comparison: Comparison, *names: list[str], split: str, options: str, at_most: int | None = None
) -> list[Cell]:
    """Return a cell of each network at the greatest depth that all have and at which the first has learned enough."""
    attempts = (
        common_depths(comparison, *_trained_as(recipe, *names), split=split, at_most=at_most) for recipe in RECIPES
    )
    candidates = next((each for each in attempts if each[0]), None)
    if candidates is None:
        there = {cell.arch for cell in comparison.cells}
        missing = [each[0] for each in names if not there & set(each)]
        depth = "one depth" + (f" up to {at_most} layers" if at_most else "")
        raise NotEnough(", ".join(missing) if missing else f"{depth} of {', '.join(n[0] for n in names)}", options)
    trained = [depth for depth, cell in candidates[0].items() if not is_untrained(cell)]
    if not trained:
        raise NotEnough(untrained(candidates[0][max(candidates[0])]))
    return [cells[trained[-1]] for cells in candidates]


def _trained_as(recipe: str, *names: list[str]) -> list[list[str]]:
    """Return the names with a recipe behind the architecture; v2's recipe is resnet_v2's own and is not named."""
    heads = ("plain", "resnet_v1")
    return [[" ".join([f"{w}{recipe}" if w in heads else w for w in name.split()]) for name in each] for each in names]
