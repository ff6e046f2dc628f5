"""Write the tables of the papers and of our runs, and the figures of speed, into the pages: `make readme`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks import figures
from resnet_repro.conf_dir import config_dir
from resnet_repro.launch import plan
from resnet_repro.launch.experiment import make_jobs
from resnet_repro.papers import rows as paper
from resnet_repro.papers.rows import Published
from resnet_repro.runs import finished
from resnet_repro.runs.finished import FinishedRun
from resnet_repro.runs.job import Config, Job

BEGIN, END = "<!-- written by make readme -->\n", "<!-- until here -->\n"
HOURS = "GPU hours, estimated"
ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS, SPEED, TABLES = (ROOT / "docs" / f"{name}.md" for name in ("results", "speed", "tables"))


@dataclass(frozen=True)
class Summary:
    """A table or figure of the papers, and the runs that reproduce it."""

    jobs_of: dict[Published, list[Job]]

    @property
    def rows(self) -> list[Published]:
        return list(self.jobs_of)

    @property
    def jobs(self) -> list[Job]:
        return list(dict.fromkeys(job for jobs in self.jobs_of.values() for job in jobs))

    @property
    def whys(self) -> str:
        """Return why it cannot be run; empty if it can."""
        return "" if self.jobs else paper.why_not(self.rows)

    @property
    def tests(self) -> str:
        """Return the commands that test as the paper did; empty if every number is the error that a run ends with."""
        ways = dict.fromkeys(tuple(row.way) for row in self.rows if not row.why and row.test != "1crop")
        return ", ".join(" ".join(["python evaluate.py run=FOLDER", *way]) for way in ways)

    @property
    def num_networks(self) -> int:
        """Count networks, each with its data and protocol; a network is trained once a seed."""
        return len({job.run.cell for job in self.jobs})

    @property
    def gpu_hours(self) -> str:
        return f"{plan.gpu_hours(self.jobs):.1f}"

    @property
    def what(self) -> str:
        return "; ".join(dict.fromkeys(row.what for row in self.rows))

    @property
    def command(self) -> str:
        return f"`python train.py experiment={self.rows[0].experiment}`"

    @property
    def in_short(self) -> str:
        """Return its row of the README's table."""
        kept = [job for job in self.jobs if (ROOT / "results" / Path(*job.dir.parts[-2:]) / "manifest.json").exists()]
        ours = f"{len(kept)} of {len(self.jobs)} runs" if kept else "not run"
        return f"| {self.rows[0].source} | {self.what} | {self.command} | {ours} |\n"

    @property
    def markdown(self) -> str:
        """Return its row of the table of docs/tables.md."""
        command = self.command if self.jobs else ""
        ready = f"ready: {self.num_networks} networks, {len(self.jobs)} runs"
        state = f"cannot be run: {self.whys}" if self.whys else ready
        state += f", then `{tests}` of each" if (tests := self.tests) else ""
        hours = self.gpu_hours if self.jobs else ""
        return f"| {self.rows[0].source} | {self.what} | {command} | {hours} | {state} |\n"


def summaries() -> Iterator[Summary]:
    """Yield a summary of every table and figure, in the papers' order."""
    tables = paper.tables()
    can_run = {source: rows for source, rows in tables.items() if not all(row.why for row in rows)}
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        request = make_jobs(_composed, [[f"experiment={rows[0].experiment}"] for rows in can_run.values()])
    for source, rows in tables.items():
        made = request.tables.get(source, {})
        yield Summary({row: made.get(row, []) for row in rows})


def _composed(overrides: Sequence[str]) -> tuple[Config, dict[str, Any]]:
    composed = compose("config", list(overrides), return_hydra_config=True)
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    config: Any = OmegaConf.to_container(ours, resolve=True)
    return config, dict(composed.hydra.runtime.choices)


def tables_page(text: str, every: list[Summary]) -> str:
    """Return docs/tables.md with its table renewed: every table and figure of the papers."""
    head = f"| paper | what | command | {HOURS} | state |\n|---|---|---|---:|---|\n"
    return _replaced(text, head + "".join(summary.markdown for summary in every))


def readme(text: str, every: list[Summary]) -> str:
    """Return the README with its table renewed: what can be run, and how much of it has been, at full length."""
    head = "| paper | what | command | ours, at full length |\n|---|---|---|---|\n"
    return _replaced(text, head + "".join(summary.in_short for summary in every if summary.jobs))


def results_page(text: str, every: list[Summary]) -> str:
    """Return docs/results.md with its table renewed: the kept runs of CIFAR-10, each with the whole of a recipe."""
    runs, _ = finished.read(ROOT / "results")
    cifar = [run for run in runs if run.options.data.name == "cifar10"]
    whole = [run for run in cifar if not {"schedule.steps", "data.val_size"} & run.manifest["departures"].keys()]
    if not whole:
        return _replaced(text, "No run of a whole recipe is kept yet.\n")
    head = "| run | training error, % | test error, % | the paper's | images/s | processor |\n"
    head += "|---|---:|---:|---|---:|---|\n"
    return _replaced(text, head + "".join(_result(run, every) for run in whole))


def _result(run: FinishedRun, every: list[Summary]) -> str:
    """Return the row of a kept run, with every number of the papers that it is a run of."""
    printed = [
        f"{row.compared} ({row.source}{', ' if row.about else ''}{row.about})"
        for summary in every
        for row, jobs in summary.jobs_of.items()
        if row.has_number and any(job.dir.parts[-2:] == run.directory.parts[-2:] for job in jobs)
    ]
    errors = " | ".join(f"{run.results[f'{split}/error']:.2f}" for split in ("train", "test"))
    machine = run.manifest["machine"]
    about = f"{run.manifest['images_per_s']:.0f} | {machine['gpu'] or machine['cpu']}"
    return f"| `{run.directory.name}` | {errors} | {'; '.join(printed)} | {about} |\n"


def speed_page(text: str, records: list[figures.Record]) -> str:
    """Return docs/speed.md with its claims and tables renewed."""
    return _replaced(text, figures.claims_and_tables(records))


def _replaced(text: str, new: str) -> str:
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + new + END + rest.partition(END)[2]


def renew(path: Path, new: Callable[[str, Any], str], content: object) -> None:
    """Renew what is generated in a file."""
    path.write_text(new(path.read_text(encoding="utf-8"), content), encoding="utf-8")


def main() -> None:
    """Renew what is generated in README.md, the pages of docs/, and benchmarks/RESULTS.md."""
    every, records = list(summaries()), figures.records()
    renew(README, readme, every)
    renew(TABLES, tables_page, every)
    renew(RESULTS, results_page, every)
    renew(SPEED, speed_page, records)
    figures.write_results(records)


if __name__ == "__main__":
    main()
