"""Figures: panels, axes and lines."""

from itertools import pairwise
from pathlib import Path

import pytest

from resnet_repro.report import figures as gallery
from resnet_repro.report import layer_figures, training_curves
from resnet_repro.runs.finished import read
from resnet_repro.runs.groups import Comparison, group
from tests.helpers.synthetic_runs import write_constructed, write_example, write_layers, write_run


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return write_example(tmp_path)


def test_a_figure_has_a_panel_for_each_architecture_plain_first(outputs: Path) -> None:
    digits = group(read(outputs)[0])[1]
    panels = training_curves.curves(digits, training_curves.training_panels(digits)).axes
    assert [panel.get_title() for panel in panels] == ["plain", "resnet_v2"]
    assert {panel.get_ylim() for panel in panels} == {(0, 100)}  # plain-110 ends at 89 %
    assert len({line.get_color() for panel in panels for line in panel.lines}) == 3  # one a depth


def test_figure_of_the_papers_protocol_has_the_papers_axis(outputs: Path) -> None:
    cifar = group(read(outputs)[0])[0]
    (panel,) = training_curves.curves(cifar, training_curves.training_panels(cifar)).axes
    assert panel.get_ylim() == (0, 20)
    assert panel.get_xlim() == (0, 64_000)


def test_curve_is_mean_and_range_of_the_seeds_at_common_steps(outputs: Path) -> None:
    (cell,) = group(read(outputs)[0])[0].cells
    drawn = training_curves.curve(cell, "test")
    assert (drawn.mean[-1], drawn.low[-1], drawn.high[-1]) == pytest.approx((19.9 / 3, 6.4, 6.9))
    assert len(drawn.steps) < len(training_curves.curve(cell, "train").steps)  # test rows come less often


def test_without_a_test_set_the_validation_error_is_drawn(tmp_path: Path) -> None:
    write_run(tmp_path, test=None, val=9.0, data__val_size=200)
    comparison = group(read(tmp_path)[0])[0]
    figure = training_curves.curves(comparison, training_curves.training_panels(comparison))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training error", "validation error"]


def test_a_long_title_stays_within_its_figure(tmp_path: Path) -> None:
    for arch in ("plain", "resnet_v1"):
        run = write_run(tmp_path, arch, data__name="cifar10", data__val_size=5_000, schedule__steps=4_000)
        write_layers(run, stds=[1.0] * 19, gradients={1: [1.0] * 19})
    (comparison,) = group(read(tmp_path)[0])
    drawn = [figure for each in gallery.draw(comparison) for figure in (each.wide, each.narrow) if figure]
    assert len(drawn) >= 4  # curves wide and narrow, responses, gradients
    for figure in drawn:
        figure.draw_without_rendering()
        assert figure._suptitle is not None
        box = figure._suptitle.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_labels_keep_their_order_and_distance() -> None:
    placed = training_curves.spread([0.02, 0.021, 0.5, 0.02], gap=0.1)
    ordered = sorted(placed)
    assert all(high - low >= 0.1 - 1e-9 for low, high in pairwise(ordered))
    assert min(placed) >= 0
    assert placed[1] > placed[0]
    assert placed[2] == pytest.approx(0.5)


def titles(comparison: Comparison) -> dict[str, list[str]]:
    """Return the titles of the panels of each figure."""
    return {drawn.name: [axes.get_title() for axes in drawn.wide.axes] for drawn in gallery.draw(comparison)}


def test_an_ablation_is_drawn_beside_the_original_network(outputs: Path) -> None:
    write_run(outputs, "resnet_v2", 20, name="gate", arch__mix="exclusive_gate")
    write_run(outputs, "resnet_v2", 56, name="deeper gate", arch__mix="exclusive_gate")
    digits = group(read(outputs)[0])[1]
    assert titles(digits) == {
        "training_curves": ["plain", "resnet_v2"],
        "ablations": ["resnet_v2-56 mix=exclusive_gate"],
    }
    (lines,) = training_curves.ablation_panels(digits).values()
    assert [line.label for line in lines] == ["resnet_v2", "exclusive_gate"]


def test_a_constructed_network_is_drawn_beside_both_others(outputs: Path) -> None:
    write_constructed(outputs, "plain", 56, train=2.0)
    digits = group(read(outputs)[0])[1]
    assert titles(digits) == {"training_curves": ["plain", "resnet_v2"], "constructed_solution": ["plain"]}
    (lines,) = training_curves.constructed_panels(digits).values()
    assert [(line.label, line.cell.depth, line.cell.init_from) for line in lines] == [
        ("20-layer", 20, None),
        ("56-layer", 56, None),
        ("constructed", 56, 20),
    ]


def test_responses_are_drawn_in_order_and_sorted(tmp_path: Path) -> None:
    for arch, stds in (("plain", [1.0, 3.0, 2.0]), ("resnet_v1", [0.5, 0.2, 0.4])):
        write_layers(write_run(tmp_path, arch, 20), stds=stds)
    figure = layer_figures.response_figure(group(read(tmp_path)[0])[0])
    assert figure is not None
    above, below = figure.axes
    assert [list(line.get_ydata()) for line in above.lines] == [[1.0, 3.0, 2.0], [0.5, 0.2, 0.4]]
    assert [list(line.get_ydata()) for line in below.lines] == [[3.0, 2.0, 1.0], [0.5, 0.4, 0.2]]
    assert [line.get_linestyle() for line in above.lines] == ["--", "-"]
    assert above.get_ylim() == below.get_ylim() == (0, 3)  # as in the paper


def test_gradients_are_drawn_by_layer_and_step_mean_over_seeds(tmp_path: Path) -> None:
    write_layers(write_run(tmp_path, "plain", 20), gradients={1: [4.0, 2.0], 220: [1.0, 1.0]})
    write_layers(write_run(tmp_path, "plain", 20, 1), gradients={1: [2.0, 2.0], 220: [1.0, 3.0]})
    figure = layer_figures.gradient_figure(group(read(tmp_path)[0])[0])
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_title() == "plain-20"
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {"step 1": [3.0, 2.0], "step 220": [1.0, 2.0]}
