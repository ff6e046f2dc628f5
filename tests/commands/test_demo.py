"""`make demo` and `make figures`, up to the page."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from resnet_repro.report import figures
from tests.helpers.commands import ROOT, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]


def test_the_demo_shows_that_depth_degrades_plain_networks_only(tmp_path: Path) -> None:
    sweep = ("-m", "depth=20,56,110", "arch=plain,resnet_v2", "data=digits")
    # three minutes on two cores without bf16 instructions, and longer beside other tests
    status, output = run("train.py", *sweep, home=tmp_path, limit=800)
    assert status == 0, output
    status, output = run("report.py", home=tmp_path)
    assert status == 0, output
    assert len(output.splitlines()) <= 20
    assert " ".join(output.split()).startswith("Yes. On digits, plain-110 ends ")
    (protocol,) = json.loads((tmp_path / "outputs/report/report.json").read_text())["protocols"]
    train = {row["network"]: row["errors"]["train"]["mean"] for row in protocol["rows"]}
    assert train["plain-20"] < 10 < 40 < train["plain-56"] < train["plain-110"]
    assert max(train[f"resnet_v2-{depth}"] for depth in (20, 56, 110)) < 5
    verdicts = {claim["rule"]: claim["verdict"] for claim in protocol["claims"]}
    for rule in (
        "degradation",
        "not_overfitting",
        "no_degradation",
        "beats_plain",
        "converges_faster",
        "healthy_gradients",
    ):
        assert verdicts[rule] == "holds", rule

    page = tmp_path / "outputs/report/index.html"
    assert page.read_text().count('class="plot"') == 2 + 2 + 6 + 6  # curves, responses, gradients, runs
    assert not re.search(r"(src|href)=[\"']?(https?:)?//(?!arxiv\.org|doi\.org)", page.read_text())
    if chromium := shutil.which("chromium"):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        dom = subprocess.run([chromium, *flags, profile, page.as_uri()], capture_output=True, text=True, check=True)
        assert dom.stdout.count("✓ holds") >= 3


def test_make_figures_makes_the_runs_of_every_figure_and_claim(tmp_path: Path) -> None:
    recipe = (ROOT / "Makefile").read_text().split("\nfigures:")[1].split("\n\n")[0]
    commands = re.findall(r"train\.py (.*)", recipe)
    assert len(commands) > 1
    for options in commands:
        status, output = run("train.py", *options.split(), "schedule.steps=5", "logger=csv", home=tmp_path)
        assert status == 0, output
    status, output = run("report.py", home=tmp_path)
    assert status == 0, output
    report = tmp_path / "outputs/report"
    (protocol,) = json.loads((report / "report.json").read_text())["protocols"]
    for name in set(figures.NAMES) - {"comparators"}:
        for suffix in ("png", "pdf"):
            assert (report / f"{name}_{protocol['slug']}.{suffix}").stat().st_size > 5_000
    # five steps may be too few to judge; no claim lacks a run
    assert [claim["command"] for claim in protocol["claims"]] == [""] * len(protocol["claims"])
