"""The report's page in a real browser: its filter, by keyboard, on a phone, on paper, without JavaScript."""

import io
from pathlib import Path

import pytest
from pypdf import PdfReader

from tests.helpers.browser import PROGRAM, Browser

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium on PATH")


def shown(tab: Browser, kind: str) -> list[str]:
    """Return the ids of the parts of a kind that the filter shows."""
    return tab.js(
        f"[...document.querySelectorAll('[data-kind={kind}]')].filter(e => e.checkVisibility()).map(e => e.id)"
    )


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_only_scrolling_parts_are_wider_than_the_screen(opened: Browser, width: int) -> None:
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


def test_the_filter_works_by_keyboard_and_stands_in_the_address(opened: Browser) -> None:
    opened.press("Tab")
    assert opened.js("document.activeElement.className") == "skip"
    assert opened.js("document.activeElement.getBoundingClientRect().left") >= 0  # visible while focused
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
    assert "2 of 9 tables, 1 of 14 final errors, 1 of 17 runs" in opened.js(
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
    assert len(shown(opened, "run")) == 17
    assert opened.js("document.activeElement.name") == "paper"  # not lost with the button


def test_a_filtered_page_can_be_linked_and_links_show_their_run(tab: Browser, page: Path) -> None:
    tab.size(1200)
    tab.open(f"{page.as_uri()}?paper=v1&data=digits")
    assert tab.js("[...document.querySelectorAll('input:checked')].map(i => i.value)") == ["v1", "digits"]
    assert shown(tab, "run") == [f"run-digits-plain-{depth}-s0" for depth in (20, 56, 110)]
    tab.open(f"{page.as_uri()}?paper=v1#run-digits-resnet_v2-20-s0")
    assert tab.js("document.querySelector('#run-digits-resnet_v2-20-s0').open")
    assert 0 <= tab.js("document.querySelector('#run-digits-resnet_v2-20-s0').getBoundingClientRect().top") < 100
    assert tab.js("location.search") == ""
    tab.open(f"{page.as_uri()}?paper=v9&data=%3Cb%3E")
    assert len(shown(tab, "run")) == 17


def test_a_run_is_reached_and_opened_by_keyboard(opened: Browser) -> None:
    opened.js("document.querySelector('#run-digits-plain-20-s0 summary').focus()")
    assert opened.js("getComputedStyle(document.activeElement).outlineStyle") != "none"
    opened.press("Enter")
    assert opened.js("document.querySelector('#run-digits-plain-20-s0').open")


def test_without_javascript_everything_but_the_filter_is_there(tab: Browser, page: Path) -> None:
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(f"{page.as_uri()}?paper=v2")
        assert len(shown(tab, "run")) == 17
        assert len(shown(tab, "table")) == 9
        assert tab.js("document.querySelector('#filter').checkVisibility()") is False
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)


def printed(tab: Browser) -> str:
    """Return the words of the page on paper."""
    return "\n".join(sheet.extract_text() for sheet in PdfReader(io.BytesIO(tab.pdf())).pages)


def test_printing_opens_everything_shown_and_closes_it_again(tab: Browser, page: Path) -> None:
    text = printed(tab.open(f"{page.as_uri()}?data=digits"))
    assert text.count("protocol_steps:") == 6  # a config each
    assert "To make the runs" in text  # of the claims without enough runs
    assert "Show only" not in text
    assert tab.js("document.querySelectorAll('details[open]').length") == 0


def test_on_paper_everything_is_open_without_javascript_too(tab: Browser, page: Path) -> None:
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        text = printed(tab.open(page.as_uri()))
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)
    assert text.count("protocol_steps:") == 17


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
