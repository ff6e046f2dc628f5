"""The report's page in a real browser: what it says of each row of the papers, its filter, on a phone, on paper."""

import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from pypdf import PdfReader
from rich.console import Console

from resnet_repro import paper, report
from tests.browser import PROGRAM, Browser, browser
from tests.synthetic_runs import entry, write_example, write_run

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium on PATH")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of runs in every state that a row of the papers may be in, and on every data set but ImageNet."""
    outputs = write_example(tmp_path_factory.mktemp("report") / "outputs")
    write_run(outputs, "resnet_v1", 20, test=8.75, data__name="cifar10")
    write_run(outputs, "resnet_v1", 56, test=30.0, data__name="cifar10")
    write_run(outputs, "resnet_v1", 44, test=50.0, data__name="cifar10", schedule__steps=400)
    write_run(outputs, "resnet_v1", 20, 7, name="[a] b", test=9.0, data__name="cifar10")
    write_run(outputs, "resnet_v2", 110, test=6.4, data__name="cifar10")
    write_run(outputs, "plain", 20, test=9.0, data__name="cifar10")
    both = entry("1crop", 22.9, split="test", num_bn_images=400, runs=["resnet_v2-164-s0", "resnet_v2-164-s1"])
    write_run(outputs, "resnet_v2", 164, test=24.4, data__name="cifar100", tests=[both])
    return report.write(outputs, Console(file=io.StringIO(), width=120))


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def opened(tab: Browser, file: Path) -> Browser:
    """The page on a wide screen, everything shown."""
    tab.size(1200)
    return tab.open("about:blank").open(file.as_uri())


def shown(tab: Browser, kind: str) -> list[str]:
    """Ids of the parts of a kind that the filter leaves."""
    return tab.js(
        f"[...document.querySelectorAll('[data-kind={kind}]')].filter(e => e.checkVisibility()).map(e => e.id)"
    )


@pytest.mark.parametrize(
    ("printed", "state"),
    [
        ("Maxout", "– not possible here"),
        ("ResNet-20", "✓ agrees"),
        ("ResNet-44", "≠ not comparable"),
        ("ResNet-56", "✗ differs"),
        ("ResNet-32", "○ not run"),
    ],
)
def test_a_row_says_its_verdict_in_colour_mark_and_word(opened: Browser, printed: str, state: str) -> None:
    row = (
        f"[...document.querySelectorAll('#v1_table6-cifar10 tbody tr')].find(r => r.cells[0].innerText == '{printed}')"
    )
    assert opened.js(f"{row}.cells[4].innerText").split("\n")[0] == state
    has_runs = state[2:] in ("agrees", "differs", "not comparable")
    transparent = "rgba(0, 0, 0, 0)"
    assert (opened.js(f"getComputedStyle({row}.cells[4]).backgroundColor") != transparent) == has_runs
    assert opened.js(f"{row}.querySelectorAll('.seeds a').length > 0") == has_runs


def test_too_few_runs_and_curves_are_states_of_their_own(opened: Browser) -> None:
    assert opened.js("document.querySelector('#v2_table2-cifar10 .too-few-runs.left').innerText").startswith(
        "… too few"
    )
    assert opened.js("document.querySelector('#v1_fig1-cifar10 .a-curve.left').innerText").startswith("~ a curve")


def test_the_overview_has_a_row_for_every_table_of_the_papers_and_a_square_for_every_row_of_those_with_runs(
    opened: Browser,
) -> None:
    assert opened.js("document.querySelectorAll('.overview tbody tr').length") == len(
        {(row.source, row.what) for row in paper.registry()}
    )
    squares = opened.js("[...document.querySelectorAll('.overview a.state')].map(a => a.getAttribute('aria-label'))")
    sources = set(opened.js("[...document.querySelectorAll('.overview th a')].map(a => a.innerText)"))
    assert len(squares) == sum(row.source in sources for row in paper.registry())
    assert "ResNet-56: differs" in squares


def test_every_link_within_the_page_leads_somewhere_and_every_seed_to_its_run(opened: Browser, file: Path) -> None:
    dead = "[...document.querySelectorAll(\"a[href^='#']\")].map(a => a.hash.slice(1))"
    dead += ".filter(id => !document.getElementById(decodeURIComponent(id)))"
    assert opened.js(dead) == []
    runs = opened.js("[...document.querySelectorAll('.run')].map(e => '#' + e.id)")
    linked = opened.js("[...document.querySelectorAll('.seeds a')].map(a => a.hash)")
    assert set(linked) == set(runs)
    assert len(runs) == 16


def test_a_run_links_to_its_files_from_wherever_its_folder_lies(opened: Browser, file: Path) -> None:
    links = opened.js("[...document.querySelectorAll('.run dd a')].map(a => a.href)")
    assert len(links) == 2 * 16 + 1  # one has been tested since
    for link in links:
        assert Path(unquote(link.removeprefix("file://"))).is_file(), link


def test_a_run_shows_config_manifest_and_its_own_curve(opened: Browser) -> None:
    opened.js("document.querySelector('#runs').scrollIntoView()")
    opened.js("document.querySelector('a[href=\"#run-digits-plain-56-s0\"]').click()")
    opened.js("new Promise(done => setTimeout(done, 100))")
    run = "document.querySelector('#run-digits-plain-56-s0')"
    assert opened.js(f"{run}.open")
    text = opened.js(f"{run}.innerText")
    for word in ("protocol_steps: 220", "depth: 56", "ab" * 32, "0123abc", "2.14.1"):
        assert word in text
    assert "test error 31.00 %" in opened.js(f"{run}.querySelector('svg').getAttribute('aria-label')")
    assert opened.js(f"{run}.querySelector('.curve.test').getTotalLength()") > 300


def test_a_run_shows_how_it_was_tested_since_and_an_ensemble_with_its_members(opened: Browser) -> None:
    run = "document.querySelector('#run-cifar100-resnet_v2-164-s0')"
    opened.js(f"{run}.open = true")
    cells = opened.js(f"[...{run}.querySelectorAll('tbody tr:first-child > *')].map(e => e.innerText)")
    assert cells == [
        "1crop\none centre crop, batch norms anew on 400 images, 32-true",
        "50,000 test",
        "22.90",
        "7.90",
        "ensemble of resnet_v2-164-s0, resnet_v2-164-s1\n2026-01-02T10:00:00+00:00",
    ]
    assert opened.js("document.querySelectorAll('.run table').length") == 1


def test_page_asks_for_nothing_but_itself_and_forbids_it_and_writes_no_error(opened: Browser, file: Path) -> None:
    opened.js("new Promise(done => setTimeout(done, 300))")
    assert [address for address in opened.requests if not address.startswith("data:")] == [file.as_uri()]
    assert opened.errors == []
    probe = "new Promise(done => { const i = new Image(); i.onerror = () => done('refused'); i.src = 'evil.png'; })"
    assert opened.js(probe) == "refused"
    assert any("Content Security Policy" in error for error in opened.errors)


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_wider_than_the_screen_but_what_scrolls_within_it(opened: Browser, width: int) -> None:
    opened.size(width)
    opened.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert opened.js("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, svg, .skip') && "
    wide += f"e.getBoundingClientRect().right > {width}).map(e => e.outerHTML.slice(0, 80))"
    assert opened.js(wide) == []


def test_first_column_stays_in_sight_while_a_table_scrolls(opened: Browser) -> None:
    opened.size(390)
    table = "document.querySelector('#v1_table6-cifar10 .scroll')"
    assert opened.js(f"{table}.scrollWidth > {table}.clientWidth")
    opened.js(f"{table}.scrollLeft = 200")
    left = f"{table}.querySelector('tbody th').getBoundingClientRect().left - {table}.getBoundingClientRect().left"
    assert opened.js(f"{table}.scrollLeft") > 0
    assert opened.js(left) == 0


def test_filter_works_by_keyboard_alone_says_what_it_shows_and_stands_in_the_address(opened: Browser) -> None:
    opened.press("Tab")
    assert opened.js("document.activeElement.className") == "skip"
    assert opened.js("document.activeElement.getBoundingClientRect().left") >= 0  # seen where it is focused
    while opened.js("document.activeElement.name") != "paper":
        opened.press("Tab")
    opened.press("ArrowRight")
    assert shown(opened, "table") == [*("v1_table6-cifar10", "v1_fig1-cifar10", "v1_fig6-cifar10", "v1_fig7-cifar10")]
    assert not any("resnet_v2" in run for run in shown(opened, "run"))
    opened.press("ArrowRight")
    assert shown(opened, "table") == [
        *("v2_table2-cifar10", "v2_table3-cifar10", "v2_table3-cifar100", "v2_table4-cifar10", "v2_table4-cifar100")
    ]
    opened.press("Tab", "ArrowDown", "ArrowDown", "ArrowDown")
    assert shown(opened, "table") == ["v2_table3-cifar100", "v2_table4-cifar100"]
    assert shown(opened, "run") == ["run-cifar100-resnet_v2-164-s0"]
    assert "2 of 9 tables, 1 of 13 final errors, 1 of 16 runs" in opened.js(
        "document.querySelector('[aria-live]').innerText"
    )
    assert opened.js("location.search") == "?paper=v2&data=cifar100"
    # no heading and no entry of the contents without what it leads to
    assert (
        opened.js("[...document.querySelectorAll('h3')].some(h => h.checkVisibility() && /Digits/.test(h.innerText))")
        is False
    )
    entries = "[...document.querySelectorAll('nav a')].filter(a => a.checkVisibility())"
    assert opened.js(f"{entries}.every(a => document.querySelector(a.hash).checkVisibility())")
    opened.press("Tab", " ")
    assert opened.js("location.search") == ""
    assert len(shown(opened, "run")) == 16
    assert opened.js("document.activeElement.name") == "paper"  # not lost with the button


def test_a_filtered_page_can_be_linked_and_a_link_to_what_is_hidden_shows_it(tab: Browser, file: Path) -> None:
    tab.size(1200)
    tab.open(f"{file.as_uri()}?paper=v1&data=digits")
    assert tab.js("[...document.querySelectorAll('input:checked')].map(i => i.value)") == ["v1", "digits"]
    assert shown(tab, "run") == [f"run-digits-plain-{depth}-s0" for depth in (20, 56, 110)]
    tab.open(f"{file.as_uri()}?paper=v1#run-digits-resnet_v2-20-s0")
    assert tab.js("document.querySelector('#run-digits-resnet_v2-20-s0').open")
    assert 0 <= tab.js("document.querySelector('#run-digits-resnet_v2-20-s0').getBoundingClientRect().top") < 100
    assert tab.js("location.search") == ""
    tab.open(f"{file.as_uri()}?paper=v9&data=%3Cb%3E")
    assert len(shown(tab, "run")) == 16


def test_a_run_is_reached_and_opened_by_keyboard(opened: Browser) -> None:
    opened.js("document.querySelector('#run-digits-plain-20-s0 summary').focus()")
    assert opened.js("getComputedStyle(document.activeElement).outlineStyle") != "none"
    opened.press("Enter")
    assert opened.js("document.querySelector('#run-digits-plain-20-s0').open")


def test_without_javascript_everything_is_there_and_no_control_that_does_nothing(tab: Browser, file: Path) -> None:
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(f"{file.as_uri()}?paper=v2")
        assert len(shown(tab, "run")) == 16
        assert len(shown(tab, "table")) == 9
        assert tab.js("document.querySelector('#filter').checkVisibility()") is False
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)


def printed(tab: Browser) -> str:
    """The words of the page on paper."""
    return "\n".join(sheet.extract_text() for sheet in PdfReader(io.BytesIO(tab.pdf())).pages)


def test_on_paper_everything_shown_is_open_and_afterwards_the_page_is_as_before(tab: Browser, file: Path) -> None:
    text = printed(tab.open(f"{file.as_uri()}?data=digits"))
    assert text.count("protocol_steps:") == 6  # a config each
    assert "To make the runs" in text  # of the claims without enough runs
    assert "Show only" not in text
    assert tab.js("document.querySelectorAll('details[open]').length") == 0


def test_on_paper_everything_is_open_without_javascript_too(tab: Browser, file: Path) -> None:
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        text = printed(tab.open(file.as_uri()))
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)
    assert text.count("protocol_steps:") == 16


def test_marks_and_colours_can_be_read_in_light_and_dark(opened: Browser) -> None:
    luminance = """(css) => { const c = css.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * c[0] + .7152 * c[1] + .0722 * c[2]; }"""
    worst = f"""(() => {{ const l = {luminance}; const ratio = e => {{ const s = getComputedStyle(e);
        const [a, b] = [l(s.color), l(s.backgroundColor)].sort((x, y) => y - x); return (a + .05) / (b + .05); }};
        return Math.min(...[...document.querySelectorAll('.verdict, td.state')].map(ratio)); }})()"""
    for scheme in ("light", "dark"):
        opened.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert opened.js(worst) >= 4.5, scheme
    opened.send("Emulation.setEmulatedMedia", features=[])
