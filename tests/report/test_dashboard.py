"""The report on W&B: its content, and the command that makes and renews it."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_repro.papers import verdicts
from resnet_repro.report import wandb_report
from resnet_repro.runs.finished import read
from resnet_repro.runs.groups import group
from tests.helpers.commands import DIGITS, run
from tests.helpers.synthetic_runs import write_example, write_run
from tests.helpers.wandb_server import PROJECT, WandbServer

PUBLISH = ("report.py", "wandb=true")


def definition(outputs: Path) -> dict[str, Any]:
    """Return the report of these runs as W&B would get it."""
    report = wandb_report.build(group(read(outputs)[0]), entity="", project="")
    return dict(json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)))


def grids(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]


def panels(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel["config"] for grid in grids(spec) for panel in grid["panelBankSectionConfig"]["panels"]]


def texts(spec: dict[str, Any]) -> str:
    return "\n".join(block["content"] for block in spec["blocks"] if block["type"] == "markdown-block")


def without_projects(value: Any) -> Any:
    """Return a definition without the project that publishing binds its run sets to."""
    if isinstance(value, dict):
        return {key: without_projects(item) for key, item in value.items() if key != "project"}
    return [without_projects(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def example(tmp_path: Path) -> dict[str, Any]:
    return definition(write_example(tmp_path / "outputs"))


def test_the_same_runs_give_the_same_report(example: dict[str, Any], tmp_path: Path) -> None:
    assert definition(tmp_path / "outputs") == example


def test_each_architecture_has_curves_with_a_line_a_depth(
    example: dict[str, Any],
) -> None:
    curves = [panel for panel in panels(example) if panel.get("metrics") in (["train/error"], ["test/error"])]
    curves = [panel for panel in curves if "xAxis" in panel]
    titles = {panel["chartTitle"] for panel in curves}
    assert {"plain, training", "plain, test", "resnet_v2, training", "resnet_v2, test"} <= titles
    assert {panel["xAxis"] for panel in curves} == {"trainer/global_step"}
    by_depth = [grid["runSets"][0] for grid in grids(example) if grid["runSets"][0]["name"] == "plain"]
    assert [key["name"] for key in by_depth[0]["grouping"]] == ["depth.value"]


def test_the_report_opens_with_the_answer(example: dict[str, Any]) -> None:
    assert texts(example).startswith("**Yes. On digits, plain-110 ends 86 points worse than plain-20 ")


def test_the_papers_number_stands_beside_ours_with_its_verdict(example: dict[str, Any]) -> None:
    (row,) = (line for line in texts(example).splitlines() if line.startswith("| ResNet-110 | 6.43"))
    assert "6.63 ± 0.25" in row
    assert "agrees" in row
    assert verdicts.RULE in texts(example)


def test_runs_of_different_recipes_are_never_in_one_figure(example: dict[str, Any]) -> None:
    filters = {grid["runSets"][0]["filters"]["filters"][0]["value"] for grid in grids(example)}
    assert len(filters) == 2  # digits and CIFAR-10


def test_a_name_with_a_bar_does_not_break_a_table() -> None:
    assert wandb_report.table_row(["a|b", "two\nlines"]) == "| a\\|b | two; lines |"


@pytest.mark.slow
def test_the_report_asks_for_what_the_runs_have_logged(
    wandb_server: Callable[..., WandbServer], tmp_path: Path
) -> None:
    server = wandb_server()
    status, output = run("train.py", "depth=8", *DIGITS, home=tmp_path, variables=server.variables)
    assert status == 0, output
    status, output = run(*PUBLISH, home=tmp_path, variables=server.variables)
    assert status == 0, output
    (stored,) = server.runs.values()
    (report,) = server.reports.values()
    assert f"The W&B report: {server.url}/somebody/{PROJECT}/reports/" in output
    spec = json.loads(report["spec"])
    logged = [set(row) for row in stored.history]
    for panel in (panel for panel in panels(spec) if "xAxis" in panel):
        assert any({panel["xAxis"], *panel["metrics"]} <= row for row in logged), panel
    bars = {metric.split(".", 1)[1] for panel in panels(spec) if "xAxis" not in panel for metric in panel["metrics"]}
    assert bars - stored.summary.keys() == {"paper/error"}  # no paper prints an error on digits
    for runs in (grid["runSets"][0] for grid in grids(spec)):
        assert runs["project"]["name"] == PROJECT
        for condition in runs["filters"]["filters"]:
            assert stored.config[condition["key"]["name"]]["value"] == condition["value"]
        for key in runs["grouping"]:
            assert key["name"].removesuffix(".value") in stored.config
    assert server.unknown == []


@pytest.mark.slow
def test_the_same_command_renews_the_report_in_place(wandb_server: Callable[..., WandbServer], tmp_path: Path) -> None:
    server, outputs = wandb_server(), tmp_path / "outputs"
    server.projects.add(PROJECT)
    write_run(outputs, "plain", 20)
    status, output = run(*PUBLISH, home=tmp_path, variables=server.variables)
    assert status == 0, output
    ((key, first),) = server.reports.items()
    assert "from 1 finished runs" in texts(json.loads(first["spec"]))
    kept = json.loads((outputs / "report" / "wandb_report.json").read_text())
    assert without_projects(json.loads(first["spec"])) == without_projects(kept)
    write_run(outputs, "resnet_v2", 20)
    status, output = run(*PUBLISH, home=tmp_path, variables=server.variables)
    assert status == 0, output
    assert list(server.reports) == [key]
    assert "from 2 finished runs" in texts(json.loads(server.reports[key]["spec"]))
    assert server.unknown == []


def test_without_login_a_file_and_two_lines_replace_publishing(tmp_path: Path) -> None:
    write_run(tmp_path / "outputs", "plain", 20)
    status, output = run(*PUBLISH, home=tmp_path)
    assert status == 0, output
    lines = output.splitlines()
    assert "The W&B report is not published; its definition is outputs/report/wandb_report.json." in lines
    how = "`wandb login`, `wandb sync outputs/wandb/offline-run-*` for the runs, then `python "
    assert lines[-1].startswith(f"To publish it: {how}")
    assert lines[-1].endswith("report.py wandb=true`.")
    assert json.loads((tmp_path / "outputs/report/wandb_report.json").read_text()) == definition(tmp_path / "outputs")


def test_without_a_project_the_error_names_the_upload_command(
    wandb_server: Callable[..., WandbServer], tmp_path: Path
) -> None:
    server = wandb_server()
    write_run(tmp_path / "outputs", "plain", 20)
    status, output = run(*PUBLISH, home=tmp_path, variables=server.variables)
    assert status == 2
    message = (
        f"error: W&B has no project somebody/{PROJECT}: upload the runs with `wandb sync outputs/wandb/offline-run-*`"
    )
    assert output.splitlines()[-1].startswith(message)
    assert server.reports == {}


@pytest.mark.slow
def test_without_wandb_one_line_says_so_and_the_page_is_written(
    wandb_server: Callable[..., WandbServer], tmp_path: Path
) -> None:
    server = wandb_server()
    server.stop()
    write_run(tmp_path / "outputs", "plain", 20)
    status, output = run(*PUBLISH, home=tmp_path, variables=server.variables)
    assert status == 2
    assert output.splitlines()[-1].startswith("error: W&B has not taken the report (")
    assert "Traceback" not in output
    report = tmp_path / "outputs" / "report"
    assert json.loads((report / "wandb_report.json").read_text()) == definition(tmp_path / "outputs")
    assert (report / "index.html").exists()


LINGERING = """
import subprocess, sys
from resnet_repro.runs.wandb_account import kill_wandb_after
hangs, other = (subprocess.Popen([name, "60"]) for name in sys.argv[1:])
kill_wandb_after(0.1)
print(hangs.wait(timeout=20), other.poll())
other.kill()
"""


def test_only_a_hanging_process_of_wandb_is_killed(tmp_path: Path) -> None:
    """Such a process once ignored its end, and the command waited until somebody killed both.

    Runs in a subprocess, as the test process may have W&B children for good reason.
    """
    name = tmp_path / "wandb-core"
    shutil.copy(shutil.which("sleep") or "", name)
    result = subprocess.run(
        [sys.executable, "-c", LINGERING, name, "sleep"], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [str(-signal.SIGKILL), "None"]


def test_the_wandb_report_is_made_only_on_request(wandb_server: Callable[..., WandbServer], tmp_path: Path) -> None:
    server = wandb_server()
    server.projects.add(PROJECT)
    write_run(tmp_path / "outputs", "plain", 20)
    status, _ = run("report.py", home=tmp_path, variables=server.variables)
    assert status == 0
    assert server.reports == {}
    assert not (tmp_path / "outputs/report/wandb_report.json").exists()
