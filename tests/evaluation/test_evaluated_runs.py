"""Entries of `python evaluate.py` in the report's tables, on its page and at the end of a sweep."""

import html
import io
import json
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from resnet_repro.launch import experiment
from resnet_repro.launch.experiment import Request
from resnet_repro.papers.rows import tables
from resnet_repro.report import report
from resnet_repro.runs.finished import read
from resnet_repro.runs.job import Job
from tests.helpers.synthetic_runs import SHA, entry, write_run

DEPTH = 50  # v1 Table 3 prints 22.85, top-5 6.71, with ten crops
TITLE = "v1 Table 3: ImageNet validation, 10-crop"
FOLDER = "imagenet/resnet_v1-50-s0"


def write(outputs: Path, *tests: dict[str, Any], seed: int = 0, **changes: Any) -> Path:
    """Write a run of ResNet-50 on ImageNet that ended with 24.9 %."""
    results = {"num_val_images": 50_000, "val/error_top5": 7.5}
    options = {"data__name": "imagenet", "test": None, "val": 24.9, "results": results, "tests": list(tests)} | changes
    return write_run(outputs, "resnet_v1", DEPTH, seed, **options)


def reported(outputs: Path) -> tuple[str, str, dict[str, Any]]:
    """Return the page's text, the terminal's text, and the row of ResNet-50 in report.json."""
    console = Console(file=io.StringIO(), width=100)
    page = html.unescape(report.write(outputs, console, with_details=True).read_text(encoding="utf-8"))
    rows = json.loads((outputs / "report" / "report.json").read_text())["tables"][TITLE]
    (row,) = (row for row in rows if row["row"]["printed"] == f"ResNet-{DEPTH}")
    return page, console.file.getvalue(), row  # type: ignore[attr-defined]


def test_a_verdict_is_by_the_papers_test_if_there_is_an_entry(tmp_path: Path) -> None:
    write(tmp_path, entry("multiscale", 20.9), entry("10crop", 22.9, 6.8))
    page, terminal, row = reported(tmp_path)
    assert (row["word"], row["ours"]["mean"], row["top5"]["ours"]["mean"]) == ("agrees", 22.9, 6.8)
    assert "ResNet-50 22.85 22.90, 1 run +0.05 ± 0.52 agrees [" in " ".join(terminal.split())
    assert "evaluate.py" not in terminal
    assert 'title="ResNet-50: agrees"' in page


def test_a_report_names_the_command_for_a_missing_test(tmp_path: Path) -> None:
    folder = write(tmp_path)
    page, terminal, row = reported(tmp_path)
    assert (row["word"], row["ours"]["mean"]) == ("not comparable", 24.9)
    command = f"python evaluate.py run={folder} test=10crop recompute_bn=true"  # for v1 Table 3
    assert f"ours is of one crop: `{command}` tests it as the paper did" in terminal
    assert f"<code>{command}</code> tests it as the paper did" in page
    assert f"python evaluate.py run={folder} test=multiscale" in terminal  # for v1 Table 4
    shutil.rmtree(folder / "checkpoints")  # as in a run kept in results/
    assert f"ours is of one crop, and {folder} holds no weights to test as the paper did" in reported(tmp_path)[1]


def test_a_test_of_other_weights_is_neither_used_nor_shown(tmp_path: Path) -> None:
    """For example after a run was made again in the same folder."""
    write(tmp_path, entry("10crop", 22.9, weights_sha256=["cd" * 32]))
    assert read(tmp_path)[0][0].evaluations == []
    page, _, row = reported(tmp_path)
    assert row["word"] == "not comparable"
    assert "Later tests" not in page


def test_the_page_lists_entries_of_a_run_and_of_its_ensembles(tmp_path: Path) -> None:
    both = entry("10crop", 21.5, 6.1, runs=["resnet_v1-50-s0", "resnet_v1-101-s0"], weights_sha256=[SHA, "cd" * 32])
    write(tmp_path, entry("10crop", 22.9, 6.8), both)
    page, _, row = reported(tmp_path)
    assert row["ours"]["mean"] == 22.9
    shown = page[page.index("Later tests") :]
    texts = ("22.90", "6.80", "this run alone", "21.50", "6.10", "ensemble of resnet_v1-50-s0")
    places = [shown.index(text) for text in texts]
    assert places == sorted(places)
    assert "50,000 validation" in shown
    assert "evaluations.json" in page


def test_the_table_at_the_end_of_a_sweep_uses_entries(tmp_path: Path) -> None:
    folder = write(tmp_path, entry("10crop", 22.9, 6.8))
    (row,) = (row for row in tables()["v1 Table 3"] if row.printed == f"ResNet-{DEPTH}")
    job = Job(read(tmp_path)[0][0].options, folder.name, folder, {})
    console = Console(file=io.StringIO(), width=100)

    def end() -> str:
        experiment.print_tables(Request(jobs=[job], tables={"v1 Table 3": {row: [job]}}), console=console)
        return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]

    assert "22.90, 1 run +0.05 ± 0.52 agrees" in end()
    (folder / "evaluations.json").unlink()
    assert "24.90, 1 run not comparable" in end()
    (folder / "evaluations.json").write_text('{"evaluations": [{')
    assert end().endswith(f"left out because their files are damaged: {FOLDER}")


def test_a_run_with_a_damaged_evaluations_file_is_damaged(tmp_path: Path) -> None:
    shutil.copytree(write(tmp_path), tmp_path / "imagenet" / "copy")
    (tmp_path / "imagenet" / "copy" / "evaluations.json").write_text('{"evaluations": [{')
    assert read(tmp_path)[1] == ["imagenet/copy (damaged)"]
