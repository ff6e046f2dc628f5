"""From run directories to tables and the page."""

import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from resnet_repro.report import report
from tests.helpers.synthetic_runs import write_example, write_run


def written(outputs: Path, width: int = 120, *, with_details: bool = True) -> tuple[str, str, dict[str, Any]]:
    """Return the page, the terminal's text and report.json."""
    console = Console(file=io.StringIO(), width=width)
    page = report.write(outputs, console, with_details=with_details)
    assert page == outputs / "report" / "index.html"
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return page.read_text(encoding="utf-8"), text, json.loads((page.parent / "report.json").read_text())


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return write_example(tmp_path)


def test_the_report_prints_answer_table_files_and_what_is_next(outputs: Path) -> None:
    (outputs / "digits" / "begun").mkdir()
    _, text, data = written(outputs, 80, with_details=False)
    assert text.splitlines() == [
        "Yes. On digits, plain-110 ends 86 points worse than plain-20 on the images both ",
        "trained on; ResNet-110 (v2) ends level with ResNet-20.",
        "",
        "Training / test error in %. Digits, 275 steps",
        "layers          plain    resnet_v2",
        "    20    2.00 / 3.00  1.00 / 2.00",
        "    56  30.00 / 31.00  1.00 / 2.00",
        "   110  88.00 / 89.00  1.00 / 2.00",
        "1 run is not finished",
        f"Page:     {outputs}/report/index.html",
        f"Pictures: {outputs}/report/*.png and *.pdf",
        "Next:     python report.py details=true    every claim and table, here",
        "          python train.py -m depth=20,56 arch=plain,resnet_v2    the papers' recipe on CIFAR-10",
    ]
    assert "details=true" not in written(outputs, 80)[1]  # they are printed already
    assert data["answer"]["word"] == "Yes"
    assert data["answer"]["sentence"] == " ".join(line.strip() for line in text.splitlines()[:2])
    assert data["answer"]["protocol"] == data["protocols"][0]["title"] == "Digits, 275 steps"
    (plain, residual) = data["answer"]["effects"]
    assert (plain["deep"], plain["difference"], plain["holds"]) == ("plain-110", 86, True)
    assert (residual["shallow"], residual["difference"], residual["holds"]) == ("resnet_v2-20", 0, True)


def test_twenty_lines_hold_many_depths_and_the_papers_numbers(tmp_path: Path) -> None:
    depths = {20: 8.75, 32: 7.5, 44: 7.2, 56: 6.9, 110: 6.5, 1202: 7.9}
    for arch in ("plain", "resnet_v1", "resnet_v2"):
        for depth, test in depths.items():
            write_run(tmp_path, arch, depth, test=test, data__name="cifar10")
        write_run(tmp_path, arch, 20)
    _, text, _ = written(tmp_path, 80, with_details=False)
    assert len(text.splitlines()) <= 20
    assert "Training / test error in %. CIFAR-10, 64,000 steps; more depths (1) on the page" in text
    rows = [line.split() for line in text.splitlines() if re.match(r" +\d+ ", line)]
    assert [row[0] for row in rows] == ["20", "32", "56", "110", "1202"]
    assert " ".join(rows[0]) == "20 2.00 / 8.75 2.00 / 8.75 8.75 ✓ 2.00 / 8.75"
    assert " ".join(rows[3]) == "110 2.00 / 6.50 over 60 ✗ 2.00 / 6.50 6.61 … 2.00 / 6.50 6.37 …"
    assert "The paper's test error beside ours: ✓ agrees, ✗ differs, … too few runs" in text
    assert "Other runs say" not in text  # one depth alone answers nothing


def test_without_an_answer_its_command_stays_on_one_line(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 20, schedule__steps=22)
    page, text, data = written(tmp_path, 60, with_details=False)
    command = "python train.py -m depth=20,56 arch=plain,resnet_v2 data=digits schedule.steps=22"
    assert text.splitlines()[0] == f"Not yet: needs these runs: {command}"
    assert data["answer"]["command"] == command
    assert f"<code>{command}</code></h1>" in page


def test_a_repeated_seed_counts_once_and_the_later_run_wins(tmp_path: Path) -> None:
    write_run(tmp_path, train=2, name="old", manifest={"finished": "2026-01-01T00:00:00"})
    write_run(tmp_path, train=7, name="new", manifest={"finished": "2026-02-01T00:00:00"})
    _, text, data = written(tmp_path)
    assert data["protocols"][0]["rows"][0]["errors"]["train"] == {"mean": 7, "std": 0, "n": 1}
    assert "1 run is left out, as a later run has the same network and seed: digits/old" in text


def test_one_line_counts_unfinished_and_damaged_runs(outputs: Path) -> None:
    (outputs / "digits" / "just-started").mkdir()
    write_run(outputs, "plain", 44, name="running", manifest={"state": "running"})
    damaged = write_run(outputs, "plain", 44, name="torn")
    (damaged / "manifest.json").write_text('{"state": "done", "config": ')
    write_run(outputs, "plain", 44, name="no-curves").joinpath("metrics.csv").unlink()
    write_run(outputs, "plain", 44, name="no-results", manifest={"results": None})
    _, text, data = written(outputs)
    line = (
        "5 runs are not finished: digits/just-started, digits/no-curves (damaged), digits/no-results (damaged), "
        "digits/running, digits/torn (damaged)"
    )
    assert line in text
    assert data["notes"] == [line]
    assert "plain-44" not in text


def test_figures_are_written_as_png_and_pdf_and_stale_ones_go(outputs: Path) -> None:
    written(outputs)
    shutil.rmtree(outputs / "cifar10")
    written(outputs)
    folder = outputs / "report"
    assert sorted(path.name for path in folder.glob("training_curves_*")) == [
        "training_curves_digits_275_steps.pdf",
        "training_curves_digits_275_steps.png",
    ]
    assert (folder / "training_curves_digits_275_steps.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "training_curves_digits_275_steps.pdf").read_bytes().startswith(b"%PDF")


def test_the_papers_number_is_shown_only_on_its_own_data(outputs: Path) -> None:
    _, text, data = written(outputs)
    digits, cifar = data["protocols"]  # the best evidence first
    (row,) = cifar["rows"]
    assert (row["published"]["error"], row["published"]["source"]) == (6.43, "v1 Table 6")
    assert row["difference"] == pytest.approx(19.9 / 3 - 6.61)  # mean against mean
    assert all(row["published"] is None for row in digits["rows"])
    assert re.search(r"resnet_v1-110 +3 +0\.10 ± 0\.00 +6\.63 ± 0\.25 +6\.61 ± 0\.16 +\+0\.02", text)


def test_a_networks_verdict_is_that_of_its_row_in_the_table(tmp_path: Path) -> None:
    """Alone the first row would differ; among the three rows of its table that may be chance."""
    for depth, test in ((20, 9.65), (32, 7.51), (44, 7.17)):
        write_run(tmp_path, "resnet_v1", depth, test=test, data__name="cifar10")
    _, _, data = written(tmp_path)
    in_table = [row["word"] for row in data["tables"]["v1 Table 6: CIFAR-10 test error"] if row["ours"]]
    assert in_table == ["cannot tell", "agrees", "agrees"]
    assert [row["verdict"] for row in data["protocols"][0]["rows"]] == in_table


def test_a_shortened_run_has_the_papers_number_but_no_difference(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet_v1", 20, train=50, test=50, data__name="cifar10", schedule__steps=400)
    page, text, data = written(tmp_path)
    (row,) = data["protocols"][0]["rows"]
    assert row["published"]["error"] == 8.75
    assert row["difference"] is None
    assert "400 of 64,000 steps: not comparable" in page
    assert "400 of 64,000 steps: not comparable" in text


@pytest.mark.parametrize("width", [80, *(pytest.param(width, marks=pytest.mark.slow) for width in (100, 160))])
def test_no_number_is_cut_off_in_the_terminal(outputs: Path, width: int) -> None:
    write_run(outputs, "resnet_v1", 110, name="gate", arch__mix="exclusive_gate", data__name="cifar10")
    _, text, _ = written(outputs, width)
    assert text.count("±") >= 3
    assert not re.search(r"[\w.]…", text)


class Page(HTMLParser):
    """Tags and attributes of a page, and whether its tags close in order."""

    VOID = frozenset({"meta", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in self.VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_and_loads_nothing(outputs: Path) -> None:
    page = Page(written(outputs)[0])
    assert page.open == []
    assert not any(key in attrs for _, attrs in page.tags for key in ("src", "srcset", "style"))
    assert sum(attrs.get("class") == "plot" for _, attrs in page.tags) == 3 + 9  # panels of two figures, and runs
    assert [attrs for tag, attrs in page.tags if tag in ("script", "style", "iframe")] == [{}, {}]  # within the page
    assert all("scope" in attrs for tag, attrs in page.tags if tag == "th")
    assert all(attrs["aria-label"] for _, attrs in page.tags if attrs.get("role") == "img")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_page_shows_the_answer_then_claims_figures_tables_runs(outputs: Path) -> None:
    page = written(outputs)[0]
    names = ("answer", "claims", "figures", "papers", "errors", "missing", "runs")
    places = [re.search(rf'<(section|header) id="{name}"', page).start() for name in names]  # type: ignore[union-attr]
    assert places == sorted(places)
    assert "✓ holds" in page  # a word and a mark, not only a colour


def test_text_of_a_run_is_escaped_on_page_and_terminal(outputs: Path) -> None:
    command = "python train.py <script>alert(1)</script> [bold]"
    write_run(outputs, "plain", 20, 1, name="[red]hostile", manifest={"command": command})
    (outputs / "digits" / "[red]open").mkdir()
    page, text, _ = written(outputs)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; [bold]" in page
    assert "digits/[red]open" in text


def test_a_run_without_numbers_is_a_dash_in_valid_json(outputs: Path) -> None:
    nothing = {"train/error": None, "test/error": float("nan"), "diverged_at": 3}
    write_run(outputs, "plain", 32, results=nothing, manifest={"images_per_s": None, "wall_time_s": None})
    page, text, data = written(outputs)
    row = next(row for row in data["protocols"][0]["rows"] if row["network"] == "plain-32")
    assert row["errors"] == {"train": None, "test": None}
    assert "plain-32 (1 diverged)" in text
    assert "diverged at step 3" in page
    assert "NaN" not in (outputs / "report" / "report.json").read_text()


def test_report_starts_without_torch_and_without_pyplot() -> None:
    code = (
        "import sys, resnet_repro.report.report; print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
