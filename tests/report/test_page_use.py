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


FIGURES = "[...document.querySelectorAll('.plot')].filter(e => e.checkVisibility())"


@pytest.mark.parametrize("width", [390, 1280])
def test_figures_have_one_type_size_at_any_width(opened: Browser, width: int) -> None:
    opened.size(width)
    heights = f"{FIGURES}.flatMap(e => [...e.querySelectorAll('text')]).map(e => getComputedStyle(e).fontSize)"
    assert set(opened.js(heights)) == {"12px"}
    # no parent scales the text: its height on the screen is that of its font
    boxes = opened.js(f"{FIGURES}.flatMap(e => [...e.querySelectorAll('text')]).map(e => e.getBBox().height)")
    drawn = f"{FIGURES}.flatMap(e => [...e.querySelectorAll('text')]).map(e => e.getBoundingClientRect().height)"
    assert all(abs(box - height) < 1 for box, height in zip(boxes, opened.js(drawn), strict=True))


def test_every_line_has_its_name_at_its_end(opened: Browser) -> None:
    names = opened.js("[...document.querySelectorAll('#answer .panel:first-child .end')].map(e => e.textContent)")
    assert sorted(names) == ["110-layer", "20-layer", "56-layer"]
    right = opened.js("document.querySelector('#answer .plot').getBoundingClientRect().right")
    lefts = opened.js("[...document.querySelectorAll('#answer .panel:first-child .end')].map(e => e.getBBox().x)")
    width = opened.js("document.querySelector('#answer .plot').getBoundingClientRect().width")
    assert right > width
    assert all(width <= left <= width + 10 for left in lefts)


def told(tab: Browser) -> str:
    """Return what the answer's first panel says above its lines, once the browser has handled its input."""
    tab.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return tab.js("document.querySelector('#answer .panel output').innerText")


def over(tab: Browser, x: float, y: float) -> tuple[float, float]:
    """Return the place on the screen of a part of the answer's first panel, from the left and the top."""
    tab.js("document.querySelector('#answer .plot').scrollIntoView({block: 'center'})")
    box = tab.js("document.querySelector('#answer .plot').getBoundingClientRect().toJSON()")
    return box["left"] + x * box["width"], box["top"] + y * box["height"]


def test_a_figure_tells_step_and_error_to_mouse_and_finger(opened: Browser) -> None:
    assert told(opened) == "error, %"
    x, y = over(opened, 0.999, 0.11)
    opened.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert told(opened) == "110-layer, test error: 89.00 % at step 275"
    dot = "document.querySelector('#answer .plot circle').getBoundingClientRect()"
    assert opened.js(f"{dot}.left") < x + 6
    opened.send("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert told(opened) == "error, %"
    opened.size(390)
    x, y = over(opened, 0.999, 0.71)
    opened.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    opened.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert told(opened) == "56-layer, training error: 30.00 % at step 275"


def test_a_figure_tells_step_and_error_to_the_arrow_keys(opened: Browser) -> None:
    opened.js("document.querySelector('#answer .plot').focus()")
    opened.press("ArrowLeft")
    assert told(opened) == "20-layer, training error: 2.00 % at step 275"
    opened.press("ArrowLeft", "ArrowUp")
    assert told(opened).startswith("20-layer, test error: ")
    opened.press("Escape")
    assert told(opened) == "error, %"


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
        assert tab.js("document.querySelector('#answer polyline').getBoundingClientRect().width") > 100
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)


def printed(tab: Browser) -> str:
    """Return the words of the page on paper."""
    return "\n".join(sheet.extract_text() for sheet in PdfReader(io.BytesIO(tab.pdf())).pages)


def test_printing_opens_everything_shown_and_closes_it_again(tab: Browser, page: Path) -> None:
    text = printed(tab.open(f"{page.as_uri()}?data=digits"))
    assert text.count("protocol_steps:") == 6  # a config each
    assert "python train.py experiment=constructed_solution" in text  # for claims without enough runs
    assert "110-layer" in text  # words of a figure
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
        names = f"Math.min(...[...document.querySelectorAll('.plot .end')].map(e => {{ const l = {luminance}; "
        names += "const [a, b] = [l(getComputedStyle(e).fill), l(getComputedStyle(document.body).backgroundColor)]"
        names += ".sort((x, y) => y - x); return (a + .05) / (b + .05); }))"
        assert opened.js(names) >= 4.5, scheme
    opened.send("Emulation.setEmulatedMedia", features=[])
