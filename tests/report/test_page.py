"""The report's page in a real browser: what it says of each row of the papers and of each run."""

from pathlib import Path
from urllib.parse import unquote

import pytest

from resnet_repro.papers import rows
from tests.helpers.browser import PROGRAM, Browser

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium on PATH")


@pytest.mark.parametrize(
    ("printed", "state"),
    [
        ("Maxout", "– not possible here"),
        ("ResNet-20", "✓ agrees"),
        ("ResNet-44", "≠ not comparable"),
        ("ResNet-56", "✗ differs"),
        ("ResNet-1202", "? cannot tell"),
        ("ResNet-32", "○ not run"),
    ],
)
def test_a_row_says_its_verdict_in_colour_mark_and_word(opened: Browser, printed: str, state: str) -> None:
    row = (
        f"[...document.querySelectorAll('#v1_table6-cifar10 tbody tr')].find(r => r.cells[0].innerText == '{printed}')"
    )
    assert opened.js(f"{row}.cells[4].innerText").split("\n")[0] == state
    has_runs = state[2:] in ("agrees", "differs", "cannot tell", "not comparable")
    transparent = "rgba(0, 0, 0, 0)"
    assert (opened.js(f"getComputedStyle({row}.cells[4]).backgroundColor") != transparent) == has_runs
    assert opened.js(f"{row}.querySelectorAll('.seeds a').length > 0") == has_runs


def test_the_page_opens_with_answer_figure_and_table(opened: Browser) -> None:
    opened.size(1280, 900)
    assert opened.js("document.querySelector('h1').innerText") == (
        "Yes. On digits, plain-110 ends 86 points worse than plain-20 on the images both trained on; ResNet-110 (v2) "
        "ends level with ResNet-20."
    )
    assert opened.js("document.title").startswith("Yes")
    panels = opened.js("[...document.querySelectorAll('#answer .panel')].map(e => e.getBoundingClientRect().toJSON())")
    assert [panel["top"] for panel in panels] == [panels[0]["top"]] * 2  # plain and residual side by side
    cells = opened.js("[...document.querySelectorAll('.depths tr')].map(r => [...r.cells].map(c => c.innerText))")
    assert cells == [
        ["layers", "plain", "resnet_v2"],
        ["training", "test", "training", "test"],
        ["20", "2.00", "3.00", "1.00", "2.00"],
        ["56", "30.00", "31.00", "1.00", "2.00"],
        ["110", "88.00", "89.00", "1.00", "2.00"],
    ]
    assert opened.js("document.querySelector('.depths').getBoundingClientRect().bottom") <= 900


def test_claims_that_lack_runs_are_one_line_with_a_link(opened: Browser) -> None:
    lines = opened.js("[...document.querySelectorAll('#claims-digits_275_steps > p')].map(e => e.innerText)")
    assert lines == ["9 more claims lack runs: the commands that make them."]
    opened.js("document.querySelector('#claims-digits_275_steps > p a').click()")
    assert opened.js("location.hash") == "#missing-digits_275_steps"
    missing = opened.js("document.querySelector('#missing-digits_275_steps').innerText")
    assert "python train.py -m depth=20,56,110 arch=plain,resnet_v1 data=digits" in missing
    assert opened.js("document.querySelectorAll('#missing-digits_275_steps li').length") == 9
    assert "lack runs" in opened.js("document.querySelector('#claims').innerText")


def test_too_few_runs_and_curves_are_states_of_their_own(opened: Browser) -> None:
    assert opened.js("document.querySelector('#v2_table2-cifar10 .too-few-runs.left').innerText").startswith(
        "… too few"
    )
    assert opened.js("document.querySelector('#v1_fig1-cifar10 .a-curve.left').innerText").startswith("~ a curve")


def test_the_overview_shows_every_table_and_every_row_with_runs(opened: Browser) -> None:
    assert opened.js("document.querySelectorAll('.overview tbody tr').length") == len(
        {(row.source, row.what) for row in rows.registry()}
    )
    squares = opened.js("[...document.querySelectorAll('.overview a.state')].map(a => a.getAttribute('aria-label'))")
    sources = set(opened.js("[...document.querySelectorAll('.overview th a')].map(a => a.innerText)"))
    assert len(squares) == sum(row.source in sources for row in rows.registry())
    assert "ResNet-56: differs" in squares


def test_every_link_has_a_target_and_every_seed_links_to_its_run(opened: Browser, page: Path) -> None:
    dead = "[...document.querySelectorAll(\"a[href^='#']\")].map(a => a.hash.slice(1))"
    dead += ".filter(id => !document.getElementById(decodeURIComponent(id)))"
    assert opened.js(dead) == []
    runs = opened.js("[...document.querySelectorAll('.run')].map(e => '#' + e.id)")
    linked = opened.js("[...document.querySelectorAll('.seeds a')].map(a => a.hash)")
    assert set(linked) == set(runs)
    assert len(runs) == 17


def test_a_run_links_to_its_files_from_wherever_its_folder_lies(opened: Browser, page: Path) -> None:
    links = opened.js("[...document.querySelectorAll('.run dd a')].map(a => a.href)")
    assert len(links) == 2 * 17 + 1  # one run has a later test
    for link in links:
        assert Path(unquote(link.removeprefix("file://"))).is_file(), link


def test_a_run_shows_config_manifest_and_its_own_curve(opened: Browser) -> None:
    opened.js("document.querySelector('#runs').scrollIntoView()")
    opened.js("document.querySelector('a[href=\"#run-digits-plain-56-s0\"]').click()")
    opened.js("new Promise(done => setTimeout(done, 100))")
    run = "document.querySelector('#run-digits-plain-56-s0')"
    assert opened.js(f"{run}.open")
    text = opened.js(f"{run}.innerText")
    for word in ("protocol_steps: 275", "depth: 56", "ab" * 32, "0123abc", "2.14.1"):
        assert word in text
    assert "test ends at 31.00 %" in opened.js(f"{run}.querySelector('svg').getAttribute('aria-label')")
    assert opened.js(f"{run}.querySelector('polyline:not(.dashed)').getBoundingClientRect().width") > 100


def test_a_run_shows_its_later_tests_and_ensembles(opened: Browser) -> None:
    run = "document.querySelector('#run-cifar100-resnet_v2-164-s0')"
    opened.js(f"{run}.open = true")
    cells = opened.js(f"[...{run}.querySelectorAll('tbody tr:first-child > *')].map(e => e.innerText)")
    assert cells == [
        "1crop\none centre crop, batch norms recomputed on 400 images, 32-true",
        "50,000 test",
        "22.90",
        "7.90",
        "ensemble of resnet_v2-164-s0, resnet_v2-164-s1\n2026-01-02T10:00:00+00:00",
    ]
    assert opened.js("document.querySelectorAll('.run table').length") == 1


def test_the_page_loads_nothing_and_forbids_loading(opened: Browser, page: Path) -> None:
    opened.js("new Promise(done => setTimeout(done, 300))")
    assert [address for address in opened.requests if not address.startswith("data:")] == [page.as_uri()]
    assert opened.errors == []
    probe = "new Promise(done => { const i = new Image(); i.onerror = () => done('refused'); i.src = 'evil.png'; })"
    assert opened.js(probe) == "refused"
    assert any("Content Security Policy" in error for error in opened.errors)
