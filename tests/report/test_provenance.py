"""The section of a run on the page: its curve, its papers, the links to its files."""

from pathlib import Path
from typing import Any

from resnet_repro.papers import rows
from resnet_repro.report import page, run_sections, svg
from resnet_repro.runs import finished, groups
from resnet_repro.runs.options import Run
from tests.helpers.synthetic_runs import config, write_comparator, write_run


def test_every_table_of_the_papers_has_its_rows_data_set() -> None:
    for row in rows.registry():
        assert row.options.get("data", page.data_of(row.what)) == page.data_of(row.what), row


def test_a_run_kept_in_another_folder_is_linked_there() -> None:
    address = run_sections.link(Path("results/digits/plain [a]-20-s0/metrics.csv"), Path("outputs/report/index.html"))
    assert address == "../../results/digits/plain%20%5Ba%5D-20-s0/metrics.csv"


def test_a_curve_is_thinned_to_200_points_with_both_ends() -> None:
    points = [(float(step), step / 10) for step in range(1_000)]
    thin = svg.thinned(points)
    assert len(thin) == 200
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert thin == sorted(set(thin))
    assert svg.thinned(points[:200]) == points[:200]


def test_a_curve_holds_the_finite_errors_of_a_run(tmp_path: Path) -> None:
    nan = float("nan")
    run = finished.FinishedRun(tmp_path, {}, {"step": [1.0, 2.0, 3.0], "train/error": [nan, nan, nan]})
    assert run_sections.curves(run) is None
    run.curves["test/error"] = [90.0, 80.0, nan]
    chart = run_sections.curves(run)
    assert chart is not None
    ((line,),) = (panel.lines for panel in chart.panels)
    assert (line.label, line.points) == ("test", [(1.0, 90.0), (2.0, 80.0)])


def papers_of(arch: str, depth: int, **overrides: Any) -> list[str]:
    return run_sections.papers_of(Run.of_record(config(arch, depth, **overrides)))


def test_a_network_belongs_to_papers_at_any_depth_on_any_data() -> None:
    assert papers_of("resnet_v1", 8) == ["v1", "v2"]
    assert papers_of("resnet_v2", 20) == ["v2"]
    assert papers_of("resnet_v1", 20, arch__mix="half_both") == ["v2"]
    assert papers_of("resnet_v1", 20, arch__mix="half_both", arch__order="full_preact") == []


def test_another_librarys_network_is_of_no_paper(tmp_path: Path) -> None:
    write_comparator(tmp_path, "resnet18", source="timm")
    ((comparator,), _) = finished.read(tmp_path)
    assert run_sections.papers_of(comparator.options) == []


def test_two_runs_of_one_label_have_sections_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "outputs", name="a b")
    write_run(tmp_path / "results", name="a-b", seed=1)
    comparisons = groups.group(finished.read(tmp_path / "outputs", tmp_path / "results")[0])
    assert sorted(run_sections.anchors(comparisons).values()) == ["run-digits-a-b", "run-digits-a-b-"]
