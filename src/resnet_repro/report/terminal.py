"""What the report prints: the answer in at most 20 lines, and every table and claim on request."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from resnet_repro import conf_dir
from resnet_repro.papers import verdict_text
from resnet_repro.papers.answer import Answer
from resnet_repro.papers.verdicts import Tables
from resnet_repro.report.words import CLAIM_MARKS, DASH, STATES, number, time
from resnet_repro.runs.finished import SPLITS

COLORS = {"holds": "green", "does not hold": "red", "not decided": "yellow"}
ANSWER_COLORS = {"Yes": "green", "No": "red"}
MAX_DEPTHS = 5
"""Rows of the answer's table; of more depths the middle ones are left to the page."""
AS_IT_IS: dict[str, Any] = {"soft_wrap": True, "markup": False, "highlight": False}
"""Printed without wrapping: a command or a path must stay one line to be copied."""


def show_answer(answers: Sequence[Answer], table: dict[str, Any], notes: Sequence[str], console: Console) -> None:
    """Print the answer of the best runs, their networks by depth, and in a line each what other runs say and notes."""
    best, *others = answers
    text = Text(best.sentence)
    text.stylize(f"bold {ANSWER_COLORS.get(best.word, 'yellow')}", 0, len(best.word))
    console.print(text, soft_wrap=bool(best.command))
    console.print()
    _show_depths(table, console)
    if others := [answer for answer in others if not answer.missing]:
        first = f"Other runs say: {others[0].word} ({others[0].comparison.title})"
        console.print(first + (f", and {len(others) - 1} more on the page" if others[1:] else ""), **AS_IT_IS)
    if notes:
        console.print("; ".join(notes), style="dim", **AS_IT_IS)


def show_files(page: Path, answers: Sequence[Answer], console: Console, *, command: str) -> None:
    """Print where page and pictures are, and what to do next.

    Args:
        command: the one that runs, to be named with `details=true`; empty if the details are printed.
    """
    console.print(f"Page:     {page}", **AS_IT_IS)
    console.print(f"Pictures: {page.parent / '*.png'} and *.pdf", **AS_IT_IS)
    following = [f"{command} details=true    every claim and table, here"] if command else []
    if answers[0].comparison.data == "digits" and not answers[0].missing:
        to_train = f"{conf_dir.command('train')} -m depth=20,56 arch=plain,resnet_v2"
        following.append(f"{to_train}    the papers' recipe on CIFAR-10")
    for index, line in enumerate(following):
        console.print(f"{'' if index else 'Next:':<10}{line}", **AS_IT_IS)


def _show_depths(table: dict[str, Any], console: Console) -> None:
    """Print errors in % of architectures by depth, the paper's number and a mark of its verdict beside ours."""
    rows = table["rows"]
    if not rows:
        return
    shown = rows if len(rows) <= MAX_DEPTHS else [*rows[:2], *rows[2 - MAX_DEPTHS :]]
    splits = " / ".join(SPLITS[split] for split in table["splits"])
    left_out = f"; more depths ({len(rows) - len(shown)}) on the page" if len(shown) < len(rows) else ""
    console.print(f"{splits.capitalize()} error in %. {table['title']}{left_out}", **AS_IT_IS)
    drawn = Table(box=None, pad_edge=False)
    drawn.add_column("layers", justify="right")
    for arch, has_paper in zip(table["archs"], table["has_paper"], strict=True):
        drawn.add_column(escape(arch), justify="right", no_wrap=True)
        if has_paper:
            drawn.add_column("paper", justify="right", no_wrap=True)
    states = dict[str, str]()
    for row in shown:
        cells = [str(row["depth"])]
        for network, has_paper in zip(row["networks"], table["has_paper"], strict=True):
            errors = [network["errors"][split] for split in table["splits"]] if network else []
            cells.append(" / ".join(number(error and error.mean, ".2f") for error in errors))
            if has_paper and network and (printed := network["published"]):
                mark = STATES[network["verdict"]][0]
                states[mark] = network["verdict"]
                cells.append(f"{printed.headline if printed.number is None else number(printed.number, '.2f')} {mark}")
            elif has_paper:
                cells.append("")
        drawn.add_row(*cells)
    console.print(drawn)
    if states:
        meanings = ", ".join(f"{mark} {state}" for mark, state in states.items())
        console.print(f"The paper's test error beside ours: {meanings}", style="dim", **AS_IT_IS)


def show_details(sections: Sequence[dict[str, Any]], tables: Tables, notes: Sequence[str], console: Console) -> None:
    """Print final errors and claims of every group of runs, the papers' tables beside ours, and notes in full."""
    for part in sections:
        _show_section(part, console)
    if tables:
        verdict_text.show(tables, console)
    for note in notes:
        console.print(note, **AS_IT_IS)


def _show_section(part: dict[str, Any], console: Console) -> None:
    table = _errors(part, with_costs=True)
    wide = console.options.update(max_width=1_000)
    if console.measure(table, options=wide).maximum > console.width:  # the page has the costs
        table = _errors(part, with_costs=False)
    console.print(table)
    for claim in part["claims"]:
        color = COLORS[claim["verdict"]]
        console.print(
            f"[{color}]{CLAIM_MARKS[claim['verdict']]} {claim['verdict']}[/]: {escape(claim['sentence'])}",
            highlight=False,
        )
        console.print(f"  {claim['numbers']} {claim['command']}".rstrip(), style="dim", **AS_IT_IS)
    console.print()


def _errors(part: dict[str, Any], *, with_costs: bool) -> Table:
    caption = f"Final errors in %: mean ± std over n seeds. {part['departs']}".strip()
    table = Table(title=part["title"], caption=caption, title_justify="left", caption_justify="left")
    table.box, table.pad_edge, table.collapse_padding = box.SIMPLE_HEAD, False, True
    has_paper = any(row["published"] for row in part["rows"])
    table.add_column("network")
    for name in ["n", *part["splits"], *(["paper: test", "ours - paper"] if has_paper else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for name in ["params", "images/s", "time"] if with_costs else []:
        table.add_column(name, justify="right", no_wrap=True)
    for row in part["rows"]:
        cells = [str(len(row["seeds"])), *(str(row["errors"][split] or DASH) for split in part["splits"])]
        if has_paper:
            published = row["published"].compared if row["published"] else DASH
            cells += [published, number(row["difference"], "+.2f")]
        if with_costs:
            millions = f"{row['num_parameters'] / 1e6:.2f} M"
            cells += [millions, number(row["images_per_s"]), time(row["wall_time_s"])]
        diverged = f" ({row['num_diverged']} diverged)" if row["num_diverged"] else ""
        table.add_row(escape(row["network"] + diverged), *cells)
    return table
