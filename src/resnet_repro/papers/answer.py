"""The answer to the papers' first question: does depth degrade plain networks but not residual ones?

Both halves rest on training errors, as the papers' claims of the same do: `claims.degradation` for plain networks,
`claims.no_degradation` for residual ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from resnet_repro.papers import rows
from resnet_repro.papers.claims import MARGIN, Deepening, deepening
from resnet_repro.papers.estimates import NotEnough, all_of, plain_depths
from resnet_repro.papers.judgement import to_make_runs
from resnet_repro.runs.finished import DATA_TITLES
from resnet_repro.runs.groups import Comparison

QUESTION = "Does depth degrade plain networks but not residual ones?"
RESIDUAL = ("resnet_v1", "resnet_v2")
NAMES = {"plain": "plain-{}", "resnet_v1": "ResNet-{}", "resnet_v2": "ResNet-{} (v2)"}
Word = Literal["Yes", "In part", "No", "Not decided", "Not yet"]


@dataclass(frozen=True)
class Answer:
    """What the runs of one comparison say, and what the answer rests on."""

    comparison: Comparison
    word: Word
    effects: tuple[Deepening, ...]
    """What depth does to each architecture that has two depths, plain first."""
    missing: str = ""
    """Which runs the answer waits for, in words; empty if there are enough."""
    command: str = ""
    """Makes the missing runs."""

    @property
    def sentence(self) -> str:
        """Return the answer with its numbers; a command that makes missing runs stands at its end."""
        needs = f"needs these runs: {self.command}" if self.command else f"needs {self.missing}."
        if not self.effects:
            return f"{self.word}: {needs}"
        first, *others = map(_compared, self.effects)
        found = "; ".join([f"{self._where}, {first} on the images both trained on", *others])
        return f"{self.word}. {found}." + (f" The answer {needs}" if self.missing else "")

    @property
    def basis(self) -> str:
        """Return the differences with their intervals, the number of seeds, and which runs diverged; often empty."""
        if not self.effects:
            return ""
        gaps = ", ".join(
            f"{each.deep.name} minus {each.shallow.name} {each.gap.value:+.2f} ± {each.gap.half_width:.2f}"
            for each in self.effects
        )
        counts = sorted({len(cell.measured) for each in self.effects for cell in (each.shallow, each.deep)})
        seeds = "one seed each" if counts == [1] else f"{' to '.join(map(str, counts))} seeds each"
        diverged = ", ".join(cell.name for cell in self.comparison.cells if cell.num_diverged)
        return (
            f"Final training error in points, with its 95 % interval: {gaps}; {seeds}."
            f"{f' Runs that diverged and do not count: {diverged}.' if diverged else ''}"
        )

    @property
    def is_shortened(self) -> bool:
        """Whether the runs are shorter than the recipe for their data; the one for digits has 275 steps."""
        run = self.comparison.runs[0]
        schedule = run.options.schedule
        return "schedule.steps" in run.manifest["departures"] and schedule.steps < schedule.protocol_steps

    @property
    def _where(self) -> str:
        data = self.comparison.data
        where = f"On {data if data == 'digits' else DATA_TITLES.get(data, data)}"
        schedule = self.comparison.runs[0].options.schedule
        of_recipe = "" if data == "digits" else f" of the recipe's {schedule.protocol_steps:,}"  # that of CIFAR-10
        return where + f", after {schedule.steps:,}{of_recipe} steps" * self.is_shortened


def answers(comparisons: Iterable[Comparison]) -> list[Answer]:
    """Return what each comparison says, the best evidence first.

    An answer comes before none, and that of the user's own runs before that of kept ones. Then come full length before
    shortened, the papers' data before others, the papers' recipe before departures from it, and many networks before
    few.
    """
    of_papers = {row.options.get("data") for row in rows.registry()}

    def rank(answer: Answer) -> tuple[bool, bool, bool, bool, bool, int]:
        comparison = answer.comparison
        own = not all(run.is_kept for run in comparison.runs)
        departs = bool(rows.deviations(comparison.runs[0].manifest))
        in_papers = comparison.data in of_papers
        return (not answer.missing, own, not answer.is_shortened, in_papers, not departs, len(comparison.cells))

    return sorted(map(answer, comparisons), key=rank, reverse=True)


def answer(comparison: Comparison) -> Answer:
    """Return what runs that may be compared say."""
    there = {cell.arch for cell in comparison.cells}
    residual = [arch for arch in RESIDUAL if arch in there] or ["resnet_v2"]
    effects: dict[str, Deepening] = {}
    lacks: dict[str, NotEnough] = {}
    for arch in ["plain", *residual]:
        try:
            effects[arch] = deepening(comparison, arch)
        except NotEnough as error:
            lacks[arch] = error
    with_depths = tuple(effects.values())
    plain, shortcuts = effects.get("plain"), [effect for arch, effect in effects.items() if arch != "plain"]
    if plain and shortcuts:
        return Answer(comparison, _word(plain.holds, all_of(each.holds for each in shortcuts)), with_depths)
    makeable = [arch for arch, error in lacks.items() if error.options]
    missing = "; ".join(dict.fromkeys(str(error) for error in lacks.values()))
    options = f"depth={plain_depths(comparison)} arch={','.join(makeable)}"
    return Answer(comparison, "Not yet", with_depths, missing, to_make_runs(options, comparison) if makeable else "")


def _word(degrades: bool | None, residual_do_not: bool | None) -> Word:
    """Return the answer from its halves: plain networks degrade, residual ones do not."""
    both = all_of([degrades, residual_do_not])
    if both:
        return "Yes"
    if degrades:
        return "In part"
    return "Not decided" if both is None else "No"


def _compared(effect: Deepening) -> str:
    """Return how the deepest network of an architecture ends beside the shallowest."""
    deep, shallow = (NAMES[cell.arch].format(cell.depth) for cell in (effect.deep, effect.shallow))
    shallow = shallow.removesuffix(" (v2)")
    is_worse, distance = effect.gap.exceeds(), abs(effect.gap.value)
    if is_worse is None:
        sure = effect.gap.exceeds(MARGIN) is False
        return f"{deep} ends level with {shallow}" if sure else f"{deep} does not end measurably apart from {shallow}"
    points = f"{distance:.0f}" if distance >= 10 else f"{distance:.1f}"
    return f"{deep} ends {points} points {'worse' if is_worse else 'better'} than {shallow}"
