"""The runs as a report on W&B, which `python report.py wandb=true` makes or renews.

The figures ask W&B for runs by data, schedule and architecture, so they grow with the runs. The text, with the tables
of paper and ours, is of the moment of the command.
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
from rich.console import Console

from resnet_repro.conf_dir import command, command_line
from resnet_repro.errors import UserError, first_words
from resnet_repro.papers import verdict_text, verdicts
from resnet_repro.papers.answer import answers
from resnet_repro.papers.verdicts import Tables
from resnet_repro.runs.finished import SPLITS, read
from resnet_repro.runs.groups import Comparison, group, identity
from resnet_repro.runs.options import Wandb
from resnet_repro.runs.wandb_account import is_logged_in, kill_wandb_after, wandb_mode

TITLE = "ResNets by depth and architecture, paper versus ours"
"""The title by which the report is found again in its project."""

STEP = "trainer/global_step"
"""The name under which runs log the training step."""

COMMAND = f"{command('report')} wandb=true"
COLUMNS = ["summary:test/error", "summary:val/error", "summary:train/error", "summary:paper/error"]
TIMEOUT_S = 10
AS_IT_IS: dict[str, Any] = {"soft_wrap": True, "markup": False, "highlight": False}
"""Printed without wrapping: a command must stay one line to be copied."""


class NoSuchProject(Exception):
    """W&B has no project of this name."""


def write(outputs: Path, account: Wandb, console: Console, *, kept: Sequence[Path] = ()) -> None:
    """Write the report's definition into outputs/report/ and, if somebody is logged in, publish it.

    The report covers the runs below `outputs` and `kept`, as the page does.

    Args:
        account: the runs' project, entity and mode.

    Raises:
        UserError: if W&B does not take the report. The definition is written all the same.
    """
    comparisons = group(read(outputs, *kept)[0])
    file = outputs / "report" / "wandb_report.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    definition = build(comparisons, entity="", project="")._to_model()  # as `save` sends it
    file.write_text(
        definition.spec.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n", encoding="utf-8"
    )
    typed = command_line()
    upload = f"`wandb sync {shlex.quote(str(outputs / 'wandb'))}/offline-run-*`"
    if not is_logged_in() or wandb_mode(account.mode) == "offline":
        first, mode = ("", " logger.mode=online") if is_logged_in() else ("`wandb login`, ", "")
        console.print(f"The W&B report is not published; its definition is {file}.", **AS_IT_IS)
        console.print(f"To publish it: {first}{upload} for the runs, then `{typed}{mode}`.", **AS_IT_IS)
        return
    os.environ.setdefault("WANDB_SILENT", "true")  # else W&B prints its own messages beside ours
    try:
        url = publish(comparisons, entity=account.entity, project=account.project)
    except NoSuchProject as error:
        raise UserError(f"W&B has no project {error}: upload the runs with {upload}, then `{command}`") from error
    except Exception as error:  # W&B's library raises errors of many kinds
        reason = first_words(error)
        raise UserError(f"W&B has not taken the report ({reason}): it is in {file}; try `{command}` again") from error
    finally:
        kill_wandb_after()
    console.print(f"The W&B report: {url}", **AS_IT_IS)
    if any(not any(run.glob("*.synced")) for run in (outputs / "wandb").glob("offline-run-*")):
        console.print(f"It shows what is uploaded; there are offline runs: {upload}", **AS_IT_IS)


def publish(comparisons: list[Comparison], *, entity: str | None, project: str) -> str:
    """Save the report in its project, replacing the report of that title, and return its address.

    Raises:
        NoSuchProject: if W&B has no run of the project.
        Exception: whatever W&B's library raises if W&B is out of reach.
    """
    api = wandb.Api(timeout=TIMEOUT_S)
    entity = entity or api.default_entity
    if entity is None or project not in {each.name for each in api.projects(entity)}:
        raise NoSuchProject(f"{entity}/{project}")
    report = build(comparisons, entity=entity, project=project)
    report.id = next((each.id for each in api.reports(f"{entity}/{project}") if each.display_name == TITLE), "")
    report.save()
    return str(report.url)


def build(comparisons: list[Comparison], *, entity: str, project: str) -> wr.Report:
    """Return the report; the same runs give the same report, to the letter.

    With an entity and a project the figures are bound to that project, which `save` asks W&B for.
    """
    tables = verdicts.with_numbers(verdicts.judge_cells(verdicts.cells_of_rows(comparisons)))
    blocks = [block for comparison in comparisons for block in _section(comparison, entity=entity, project=project)]
    num_runs = sum(len(comparison.runs) for comparison in comparisons)
    text = (
        f"**{answers(comparisons)[0].sentence}**\n\n"
        f"Written by `{COMMAND}` from {num_runs} finished runs. The figures and the run tables below them are W&B's "
        "own and grow with the runs; run the command again to renew the answer and the tables of paper and ours."
    )
    report = wr.Report(
        project=project,
        entity=entity,
        title=TITLE,
        description="Deep Residual Learning (v1) and Identity Mappings (v2), reproduced by resnet_repro",
        blocks=[wr.MarkdownBlock(text=text), *_tables(tables), *blocks],
        width="fluid",
    )
    _number(report)
    return report


def _tables(tables: Tables) -> Iterator[wr.H1 | wr.MarkdownBlock]:
    """Yield every table of the papers with runs of ours, each number beside ours."""
    if tables:
        yield wr.H1(text="Paper versus ours, error in %")
    for title, judged in tables.items():
        rows = [["", "paper", "ours", "ours - paper", "verdict", "why"], ["---"] * 6]
        for verdict in judged:
            numbers = verdict_text.numbers(verdict).values()
            rows.append([verdict.row.printed, *numbers, verdict.word, verdict_text.note(verdict)])
        yield wr.MarkdownBlock(text="\n".join([f"**{title}**", "", *map(table_row, rows)]))
    if tables:
        yield wr.MarkdownBlock(text=verdicts.RULE)


def table_row(texts: list[str]) -> str:
    """Return a row of a Markdown table; line breaks and bars inside a cell are replaced."""
    cells = (text.replace("|", r"\|").replace("\n", "; ") for text in texts)
    return f"| {' | '.join(cells)} |"


def _section(comparison: Comparison, *, entity: str, project: str) -> Iterator[wr.H1 | wr.H2 | wr.PanelGrid]:
    """Yield a comparison: a figure for each architecture with a line a depth, then all networks side by side."""
    comparable = identity(comparison.runs[0].manifest)["comparable"]

    def grid(panels: list[Any], name: str, group_by: str, architecture: str | None = None) -> wr.PanelGrid:
        filters = f"Config('comparable') = '{comparable}'"
        if architecture is not None:
            filters += f" and Config('architecture') = '{architecture}'"
        runs = wr.Runset(entity=entity, project=project, name=name, filters=filters, groupby=[f"config.{group_by}"])
        runs.pinned_columns = COLUMNS
        return wr.PanelGrid(runsets=[runs], panels=panels)

    yield wr.H1(text=comparison.title)
    for architecture in dict.fromkeys(cell.arch for cell in comparison.cells):
        yield wr.H2(text=f"{architecture}: error by depth")
        panels = [
            _curve(f"{split}/error", f"{architecture}, {SPLITS[split]}", "error in %") for split in comparison.splits
        ]
        yield grid(panels, architecture, "depth", architecture)
    yield wr.H2(text="All networks: final error, ours and the paper's")
    yield grid([_bars("test/error", "test error in %"), _bars("paper/error", "the paper's")], "networks", "network")
    yield wr.H2(text="Layer responses")
    responses = _curve("responses/std", "standard deviation of each 3x3 layer's response", "standard deviation")
    responses.x, responses.title_x = "responses/layer", "layer"
    yield grid([responses], "networks", "network")
    yield wr.H2(text="Throughput")
    rate = "time/images_per_s"
    yield grid([_curve(rate, "training images/s", "images/s"), _bars("images_per_s", "median")], "networks", "network")


def _curve(metric: str, title: str, title_y: str) -> wr.LinePlot:
    """Return a plot of a metric against the training step: mean and range over the seeds of a line."""
    return wr.LinePlot(
        title=title,
        x=STEP,
        y=[metric],
        title_x="training step",
        title_y=title_y,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        smoothing_type="none",
        max_runs_to_show=100,
        layout=wr.Layout(w=12, h=9),
    )


def _bars(metric: str, title: str) -> wr.BarPlot:
    """Return bars of a number of the finished runs: a bar is the mean over seeds."""
    return wr.BarPlot(
        title=title, metrics=[wr.SummaryMetric(metric)], groupby_aggfunc="mean", max_bars_to_show=100,
        layout=wr.Layout(w=12, h=9),
    )  # fmt: skip


def _number(report: wr.Report) -> None:
    """Number run sets and panels, which the library names at random: equal reports are then equal."""
    grids = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    for i, grid in enumerate(grids):
        for j, part in enumerate([*grid.runsets, *grid.panels]):
            part._id = f"resnet{i:03}{j:03}"  # type: ignore[union-attr]
