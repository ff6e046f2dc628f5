"""Training curves: panels, axes, what is drawn."""

from itertools import pairwise
from pathlib import Path

import pytest

from resnet_repro import figures
from resnet_repro.results import group, read
from tests.synthetic_runs import write_example, write_run


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return write_example(tmp_path)


def test_figure_has_a_panel_an_architecture_plain_first_on_one_y_axis(outputs: Path) -> None:
    digits = group(read(outputs)[0])[1]
    panels = figures.training_curves(digits).axes
    assert [panel.get_title() for panel in panels] == ["plain", "resnet_v2"]
    assert {panel.get_ylim() for panel in panels} == {(0, 100)}  # plain-110 ends at 89 %
    assert len({line.get_color() for panel in panels for line in panel.lines}) == 3  # one a depth


def test_figure_of_the_papers_protocol_has_the_papers_axis(outputs: Path) -> None:
    cifar = group(read(outputs)[0])[0]
    (panel,) = figures.training_curves(cifar).axes
    assert panel.get_ylim() == (0, 20)
    assert panel.get_xlim() == (0, 64_000)


def test_curve_is_mean_and_range_of_the_seeds_at_common_steps(outputs: Path) -> None:
    (cell,) = group(read(outputs)[0])[0].cells
    drawn = figures.curve(cell, "test")
    assert (drawn.mean[-1], drawn.low[-1], drawn.high[-1]) == pytest.approx((19.9 / 3, 6.4, 6.9))
    assert len(drawn.steps) < len(figures.curve(cell, "train").steps)  # test rows come less often


def test_validation_error_is_drawn_and_named_where_there_is_no_test_set(tmp_path: Path) -> None:
    write_run(tmp_path, test=None, val=9.0, data__val_size=200)
    figure = figures.training_curves(group(read(tmp_path)[0])[0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training error", "validation error"]


def test_labels_keep_their_order_and_distance() -> None:
    placed = figures.spread([0.02, 0.021, 0.5, 0.02], gap=0.1)
    ordered = sorted(placed)
    assert all(high - low >= 0.1 - 1e-9 for low, high in pairwise(ordered))
    assert min(placed) >= 0
    assert placed[1] > placed[0]
    assert placed[2] == pytest.approx(0.5)
