"""Verdicts as text: the papers' tables with our numbers beside theirs, for the terminal, the page and W&B."""

from string import ascii_lowercase

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resnet_repro.papers.verdicts import RULE, Tables, Verdict

COLORS = {"agrees": "green", "differs": "red"} | dict.fromkeys(
    ("cannot tell", "too few runs", "not comparable"), "yellow"
)


def show(tables: Tables, console: Console) -> None:
    """Print the tables, the paper's numbers beside ours, and the rule of their verdicts."""
    for title, verdicts in tables.items():
        drawn, notes = draw(title, verdicts)
        console.print(drawn)
        for text in notes:  # not wrapped: a command in it must stay one line to be copied
            console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)
        console.print()
    console.print(RULE, style="dim", highlight=False)


def draw(title: str, verdicts: list[Verdict]) -> tuple[Table, list[str]]:
    """Return one table, and a line for each letter in it: a reason or a condition."""
    drawn = Table(title=title, title_justify="left")
    drawn.box, drawn.pad_edge, drawn.collapse_padding = box.SIMPLE_HEAD, False, True
    drawn.add_column("error in %", min_width=14)
    for name in ("paper", "ours", "ours - paper"):
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("verdict", min_width=14)
    letters: dict[str, str] = {}
    for verdict in verdicts:
        text = note(verdict)
        mark = f" [{letters.setdefault(text, ascii_lowercase[len(letters)])}]" if text else ""
        said = Text(verdict.word + mark, style=COLORS.get(verdict.word, "dim"))
        drawn.add_row(Text(verdict.row.printed), *numbers(verdict).values(), said)
    return drawn, [f"[{letter}] {text}" for text, letter in letters.items()]


def note(verdict: Verdict) -> str:
    """Return why there is no verdict, and by which protocol and conditions our runs were made; often empty."""
    protocol = [f"protocol {', '.join([verdict.protocol, *verdict.conditions])}"] if verdict.protocol else []
    return "; ".join([*([verdict.reason] if verdict.reason else []), *protocol])


def numbers(verdict: Verdict) -> dict[str, str]:
    """Return the paper's number, ours and the difference as text, each of several lines; empty if there is none.

    If the paper prints a top-5 error, the second line of each is the top-5 error.
    """
    row, ours, top5 = verdict.row, verdict.ours, verdict.top5
    printed = [", ".join(filter(None, (row.headline, row.about))).replace(", top-5", "\ntop-5")]
    printed += [] if row.mean is None else [f"mean {row.mean:.2f} ± {row.std:.2f}"]
    texts = {"paper": "\n".join(printed), "ours": "", "difference": ""}
    if ours:
        lines = {
            "mean": f"{ours.mean:.2f} ± {ours.std:.2f}",
            "best": f"{ours.best:.2f}",
            "median": f"{ours.median:.2f}",
        }
        own = row.statistic or "mean"
        column = (
            [f"{ours.mean:.2f}, 1 run" if ours.n == 1 else f"{lines.pop(own)}, {own} of {ours.n}"] if ours.n else []
        )
        if top5:
            column.append(f"top-5 {top5.ours.mean:.2f}" + (f" ± {top5.ours.std:.2f}" if top5.ours.n > 1 else ""))
        column += [f"{name} {text}" for name, text in lines.items()] if ours.n > 1 else []
        column += [f"{ours.num_diverged} diverged"] if ours.num_diverged else []
        column += ["one crop"] if verdict.test != row.test else []
        texts["ours"] = "\n".join(column)
    if verdict.difference is not None:
        texts["difference"] = f"{verdict.difference:+.2f} ± {verdict.uncertainty:.2f}"
    if top5 and top5.difference is not None:
        texts["difference"] += f"\n{top5.difference:+.2f} ± {top5.uncertainty:.2f}"
    return texts
