"""`experiment=`: the jobs of a table of the papers, its plan, its runs and its table at the end."""

from pathlib import Path

import pytest
import yaml

from docs.readme import README, RESULTS, TABLES, Summary, readme, results_page, tables_page
from resnet_repro.launch.experiment import make_jobs
from resnet_repro.runs import resume
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.options import Warmup
from tests.helpers.commands import imported_modules, manifests, run
from tests.helpers.runs import CONF, composed_with_choices, resolved

REHEARSAL = ("experiment=v1_fig1", "data=digits", "seed=0", "schedule.steps=22", "logger=csv")


def names(*commands: list[str]) -> list[str]:
    return [job.name for job in make_jobs(composed_with_choices, commands).jobs]


def test_v1_table_6_is_six_networks_of_five_seeds(papers: dict[str, Summary]) -> None:
    expected = {f"resnet_v1-{depth}-s{seed}" for depth in (20, 32, 44, 56, 110, 1202) for seed in range(5)}
    assert {job.name for job in papers["v1_table6"].jobs} == expected
    assert {job.steps for job in papers["v1_table6"].jobs} == {64_000}


def test_v2_table_1_trains_sixteen_networks_with_v2s_warmup(papers: dict[str, Summary]) -> None:
    gates = [f"exclusive_gate__gate_bias={bias}" for bias in (0, -1, -2, -3, -4, -5, -7)] + ["exclusive_gate"]
    mixes = ["half_shortcut", "half_both", *gates, "shortcut_gate", "shortcut_gate__gate_bias=0"]
    expected = {f"resnet_v1-110-s0__paper_v2__mix={mix}" for mix in mixes}
    expected |= {f"resnet_v1-110-s0__paper_v2{extra}" for extra in ("", "__shortcut=C", "__shortcut=dropout")}
    jobs = [job for job in papers["v2_table1"].jobs if job.run.seed == 0]
    assert {job.name for job in jobs} == expected | {"plain-110-s0__paper_v2"}
    assert all(job.run.schedule.warmup == Warmup(lr=0.01, steps=400) for job in jobs)


def test_v2_table_4_has_the_released_recipe_and_v1s_networks(papers: dict[str, Summary]) -> None:
    assert {f"{job.dir.parent.name}/{job.name}" for job in papers["v2_table4"].jobs if job.run.seed == 0} == {
        "cifar10/resnet_v1-110-s0",
        "cifar10/resnet_v1-1202-s0",
        "cifar10/resnet_v2-164-s0",
        "cifar10/resnet_v2-1001-s0",
        "cifar10/resnet_v2-1001-s0__official_lua",
        "cifar100/resnet_v1-164-s0__paper_v2",
        "cifar100/resnet_v1-1001-s0__paper_v2",
        "cifar100/resnet_v2-164-s0",
        "cifar100/resnet_v2-1001-s0",
    }


def test_every_experiment_is_its_rows_times_its_seeds(papers: dict[str, Summary]) -> None:
    for word, summary in papers.items():
        seeds = yaml.safe_load((CONF / "experiment" / f"{word}.yaml").read_text()).get("seeds", [])
        rows = [row for row in summary.rows if not row.why]
        recipes = {row.cell for row in rows}
        made = [(job.run.cell, job.run.seed) for job in summary.jobs]
        assert set(made) == {(recipe, seed) for recipe in recipes for seed in seeds}, word
        assert len({job.dir for job in summary.jobs}) == len(summary.jobs)


def test_the_command_wins_over_the_row() -> None:
    assert names(["experiment=v1_fig1", "seed=7", "data=digits", "schedule.steps=400", "protocol=modern"]) == [
        "plain-20-s7__modern__steps=400",
        "plain-56-s7__modern__steps=400",
    ]


def test_equal_jobs_of_several_rows_and_commands_are_made_once() -> None:
    on_digits = ["experiment=v2_table3", "data=digits", "seed=0"]  # the rows of CIFAR-10 and CIFAR-100 become equal
    assert len(names(on_digits)) == 8
    assert len(names(on_digits, ["arch=resnet_v2", "depth=164", "data=digits"], on_digits)) == 8


@pytest.mark.parametrize("experiment", ["v1_table6", "v2_table1"])
def test_a_plan_shows_every_job_without_files_or_torch(
    experiment: str, papers: dict[str, Summary], tmp_path: Path
) -> None:
    status, said, modules = imported_modules(f"experiment={experiment}", "plan=true", home=tmp_path)
    jobs = papers[experiment].jobs
    assert status == 0, said
    assert said.count("to run") == len(jobs) + 1
    assert f"{len(jobs)} jobs; {len(jobs)} to run of 64,000 steps each" in said
    assert "On one GPU about " in said
    assert "torch" not in modules
    assert not list(tmp_path.glob("outputs/cifar10"))


@pytest.mark.slow
def test_an_experiment_makes_missing_runs_and_prints_the_table(tmp_path: Path) -> None:
    status, said = run("train.py", *REHEARSAL, home=tmp_path)
    assert status == 0, said
    made = manifests(tmp_path / "outputs")
    assert made.keys() == {"plain-20-s0__steps=22", "plain-56-s0__steps=22"}
    assert "v1 Fig. 1: degradation" in said
    for depth in (20, 56):
        error = made[f"plain-{depth}-s0__steps=22"]["results"]["test/error"]
        (row,) = (line for line in said.splitlines() if line.strip().startswith(f"plain-{depth} "))
        assert f"{error:.2f}, 1 run" in row
        assert "not comparable [a]" in row
    assert "[a] data=digits, not cifar10, 22 of 64,000 steps; protocol paper_v1" in said
    assert made["plain-20-s0__steps=22"]["config"]["protocol"]["name"] == "paper_v1"

    begun = tmp_path / "outputs" / "digits" / "plain-20-s1__steps=22" / "checkpoints"
    begun.mkdir(parents=True)
    (begun / "step-00000011.ckpt").touch()
    resume.record(RunDir(begun.parent), resolved(), data_checksum="", git_commit=None)
    status, said, modules = imported_modules(*REHEARSAL, "seed=0,1", "plan=true", home=tmp_path)
    assert status == 0, said
    lines = [" ".join(line.split("│")).split() for line in said.splitlines()]
    assert ["plain-20-s0__steps=22", "done", "22"] in lines
    assert any(line[:5] == ["plain-20-s1__steps=22", "begun,", "at", "step", "11"] for line in lines)
    assert any(line[:3] == ["plain-56-s1__steps=22", "to", "run"] for line in lines)
    assert "4 jobs; 2 done already; 1 begun; 2 to run of 22 steps each" in said
    assert "torch" not in modules


def test_the_tables_of_the_papers_say_what_the_registry_says(papers: dict[str, Summary]) -> None:
    page, first_page, results = (path.read_text(encoding="utf-8") for path in (TABLES, README, RESULTS))
    every = list(papers.values())
    made = tables_page(page, every), readme(first_page, every), results_page(results, every)
    assert made == (page, first_page, results), "run `make readme`"
    num_ready = sum(bool(summary.jobs) for summary in every)
    assert (page.count("| ready: "), first_page.count("| `python train.py experiment=")) == (num_ready, num_ready)


def test_the_hours_are_multiply_adds_at_the_stated_rate(papers: dict[str, Summary]) -> None:
    """ResNet-20 and -56 have 40.6 and 125.5 million multiply-adds, and three times as many in training."""
    images = 64_000 * 128
    hours = 3 * images * (40.6e6 + 125.5e6) / 6e12 / 3600
    assert float(papers["v1_fig1"].gpu_hours) == pytest.approx(hours, abs=0.05)
