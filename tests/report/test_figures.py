"""Figures: panels, axes and lines."""

from itertools import pairwise
from pathlib import Path

import pytest

from resnet_repro.report import charts, figures, layer_figures, training_curves
from resnet_repro.report.charts import Chart, Line, Panel
from resnet_repro.runs.finished import read
from resnet_repro.runs.groups import Comparison, group
from tests.helpers.synthetic_runs import write_constructed, write_example, write_layers, write_run


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return write_example(tmp_path)


def training_chart(comparison: Comparison) -> Chart:
    """Return the chart of the networks without departures."""
    return next(figures.draw(comparison))


def test_a_figure_has_a_panel_for_each_architecture_plain_first(outputs: Path) -> None:
    chart = training_chart(group(read(outputs)[0])[1])
    assert [panel.title for panel in chart.panels] == ["plain", "resnet_v2"]
    assert {panel.y for panel in chart.panels} == {(0, 100)}  # plain-110 ends at 89 %
    for panel in chart.panels:
        assert [(name.text, name.is_beyond) for name in panel.names] == [
            ("20-layer", False),
            ("56-layer", False),
            ("110-layer", False),
        ]
        assert len({line.color for line in panel.lines}) == 3  # one a depth
        assert [line.what for line in panel.lines if line.is_dashed] == ["training error"] * 3


def test_figure_of_the_papers_protocol_has_the_papers_axis(outputs: Path) -> None:
    (panel,) = training_chart(group(read(outputs)[0])[0]).panels
    assert (panel.x, panel.y) == ((0, 64_000), (0, 20))


def test_curve_is_mean_and_range_of_the_seeds_at_common_steps(outputs: Path) -> None:
    (cell,) = group(read(outputs)[0])[0].cells
    drawn = training_curves.curve(cell, "test")
    assert (drawn.mean[-1], drawn.low[-1], drawn.high[-1]) == pytest.approx((19.9 / 3, 6.4, 6.9))
    assert len(drawn.steps) < len(training_curves.curve(cell, "train").steps)  # test rows come less often


def test_without_a_test_set_the_validation_error_is_drawn(tmp_path: Path) -> None:
    write_run(tmp_path, test=None, val=9.0, data__val_size=200)
    chart = training_chart(group(read(tmp_path)[0])[0])
    assert chart.key == (("training error", True), ("validation error", False))


def test_a_picture_cuts_off_neither_its_title_nor_a_name(tmp_path: Path) -> None:
    for arch in ("plain", "resnet_v1"):
        run = write_run(tmp_path, arch, data__name="cifar10", data__val_size=5_000, schedule__steps=4_000)
        write_layers(run, stds=[1.0] * 19, gradients={1: [1e-7] * 19, 100: [1.0] * 19})
    (comparison,) = group(read(tmp_path)[0])
    drawn = [charts.picture(chart) for chart in figures.draw(comparison)]
    assert len(drawn) == 3  # curves, responses, gradients
    for figure in drawn:
        figure.draw_without_rendering()
        texts = [figure._suptitle, *(text for axes in figure.axes for text in [*axes.texts, *axes.get_yticklabels()])]
        for box in (text.get_window_extent() for text in texts if text is not None):
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("top", "ticks"),
    [
        (0.4, ["0", "0.1", "0.2", "0.3", "0.4"]),
        (100, ["0", "20", "40", "60", "80", "100"]),
        (1_234, ["0", "500", "1000"]),  # an untrained network's responses
    ],
)
def test_an_axis_of_any_length_has_few_round_numbers(top: float, ticks: list[str]) -> None:
    panel = Panel("", [], (1, 2), (0, top))
    assert [charts.round_number(tick) for tick in panel.y_ticks] == ticks


@pytest.mark.parametrize(
    ("limits", "ticks"),
    [
        ((1e-7, 20.0), ["10⁻⁷", "10⁻⁵", "0.001", "0.1", "10"]),
        ((0.08, 2.0), ["0.1", "0.3", "1"]),
        ((0.005, 40_000.0), ["0.01", "1", "100", "10⁴"]),
    ],
)
def test_a_logarithmic_axis_has_few_and_short_numbers(limits: tuple[float, float], ticks: list[str]) -> None:
    panel = Panel("", [Line("a", [(1, limits[0])], "c0")], (1, 2), limits, is_log=True)
    assert [charts.round_number(tick) for tick in panel.y_ticks] == ticks
    assert (panel.height(limits[0]), panel.height(limits[1])) == (0, 1)


def test_a_line_that_ends_above_its_panel_says_where() -> None:
    lines = [Line("plain", [(1, 2), (5, 87.6543)], "c0"), Line("residual", [(1, 2), (3, 1)], "c1")]
    above, within = Panel("", lines, (1, 5), (0, 3)).names
    assert (above.text, above.is_beyond) == ("plain ends at 87.7 ↑", True)
    assert (within.text, within.x, within.y) == ("residual", 0.5, pytest.approx(1 / 3))


def test_labels_keep_their_order_and_distance() -> None:
    placed = charts.spread([0.02, 0.021, 0.5, 0.02], gap=0.1)
    ordered = sorted(placed)
    assert all(high - low >= 0.1 - 1e-9 for low, high in pairwise(ordered))
    assert min(placed) >= 0
    assert placed[1] > placed[0]
    assert placed[2] == pytest.approx(0.5)


def titles(comparison: Comparison) -> dict[str, list[str]]:
    """Return the titles of the panels of each figure."""
    return {chart.name: [panel.title for panel in chart.panels] for chart in figures.draw(comparison)}


def test_an_ablation_is_drawn_beside_the_original_network(outputs: Path) -> None:
    write_run(outputs, "resnet_v2", 20, name="gate", arch__mix="exclusive_gate")
    write_run(outputs, "resnet_v2", 56, name="deeper gate", arch__mix="exclusive_gate")
    digits = group(read(outputs)[0])[1]
    assert titles(digits) == {
        "training_curves": ["plain", "resnet_v2"],
        "ablations": ["resnet_v2-56 mix=exclusive_gate"],
    }
    (lines,) = training_curves.ablations(digits).values()
    assert [line.label for line in lines] == ["resnet_v2", "exclusive_gate"]


def test_a_constructed_network_is_drawn_beside_both_others(outputs: Path) -> None:
    write_constructed(outputs, "plain", 56, train=2.0)
    digits = group(read(outputs)[0])[1]
    assert titles(digits) == {"training_curves": ["plain", "resnet_v2"], "constructed_solution": ["plain"]}
    (lines,) = training_curves.constructed(digits).values()
    assert [(line.label, line.cell.depth, line.cell.init_from) for line in lines] == [
        ("20-layer", 20, None),
        ("56-layer", 56, None),
        ("constructed", 56, 20),
    ]


def test_responses_are_drawn_in_order_and_sorted(tmp_path: Path) -> None:
    for arch, stds in (("plain", [1.0, 3.0, 2.0]), ("resnet_v1", [0.5, 0.2, 0.4])):
        write_layers(write_run(tmp_path, arch, 20), stds=stds)
    chart = layer_figures.response_chart(group(read(tmp_path)[0])[0], "")
    assert chart is not None
    assert [panel.title for panel in chart.panels] == ["resnet_v1, in order", "resnet_v1, sorted"]
    in_order, by_size = ([[y for _, y in line.points] for line in panel.lines] for panel in chart.panels)
    assert in_order == [[1.0, 3.0, 2.0], [0.5, 0.2, 0.4]]
    assert by_size == [[3.0, 2.0, 1.0], [0.5, 0.4, 0.2]]
    assert [line.is_dashed for line in chart.panels[0].lines] == [True, False]
    assert {panel.y for panel in chart.panels} == {(0, 3)}  # as in the paper


def test_gradients_are_drawn_by_layer_and_step_mean_over_seeds(tmp_path: Path) -> None:
    write_layers(write_run(tmp_path, "plain", 20), gradients={1: [4.0, 2.0], 275: [1.0, 0.0]})
    write_layers(write_run(tmp_path, "plain", 20, 1), gradients={1: [2.0, 2.0], 275: [1.0, 0.0]})
    chart = layer_figures.gradient_chart(group(read(tmp_path)[0])[0], "")
    assert chart is not None
    (panel,) = chart.panels
    assert panel.title == "plain-20"
    # a norm of zero has no place on a logarithmic axis
    assert {line.label: list(line.points) for line in panel.lines} == {
        "step 1": [(1, 3.0), (2, 2.0)],
        "step 275": [(1, 1.0)],
    }
