"""Write the README's table of the papers from conf/experiment, and its figures of speed: `make readme`."""

from collections.abc import Iterator, Sequence
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
from resnet_repro.runs.job import Config, Job

BEGIN, END = "<!-- written by make readme -->\n", "<!-- until here -->\n"
BEGIN_SPEED = "<!-- speed: written by make readme -->\n"
HOURS = "GPU hours, estimated"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Summary:
    """A table or figure of the papers, and the runs that reproduce it."""

    rows: list[Published]
    jobs: list[Job]

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
    def markdown(self) -> str:
        """Return its row of the README's table."""
        source, what = self.rows[0].source, "; ".join(dict.fromkeys(row.what for row in self.rows))
        command = f"`python train.py experiment={self.rows[0].experiment}`" if self.jobs else ""
        ready = f"ready: {self.num_networks} networks, {len(self.jobs)} runs"
        state = f"cannot be run: {self.whys}" if self.whys else ready
        state += f", then `{tests}` of each" if (tests := self.tests) else ""
        return f"| {source} | {what} | {command} | {self.gpu_hours if self.jobs else ''} | {state} |\n"


def summaries() -> Iterator[Summary]:
    """Yield a summary of every table and figure, in the papers' order."""
    tables = paper.tables()
    can_run = {source: rows for source, rows in tables.items() if not all(row.why for row in rows)}
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        request = make_jobs(_composed, [[f"experiment={rows[0].experiment}"] for rows in can_run.values()])
    for source, rows in tables.items():
        jobs = {job: None for made in request.tables.get(source, {}).values() for job in made}
        yield Summary(rows, list(jobs))


def _composed(overrides: Sequence[str]) -> tuple[Config, dict[str, Any]]:
    composed = compose("config", list(overrides), return_hydra_config=True)
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    config: Any = OmegaConf.to_container(ours, resolve=True)
    return config, dict(composed.hydra.runtime.choices)


def updated(text: str, every: list[Summary]) -> str:
    """Return a README with its table of the papers renewed."""
    head = f"| paper | what | command | {HOURS} | state |\n|---|---|---|---:|---|\n"
    return _replaced(text, BEGIN, head + "".join(summary.markdown for summary in every))


def updated_speed(text: str, records: list[figures.Record]) -> str:
    """Return a README with its figures of speed renewed."""
    return _replaced(text, BEGIN_SPEED, figures.readme_section(records))


def _replaced(text: str, begin: str, new: str) -> str:
    before, _, rest = text.partition(begin)
    return before + begin + new + END + rest.partition(END)[2]


def main() -> None:
    """Renew what is generated in README.md, and benchmarks/RESULTS.md."""
    readme, records = ROOT / "README.md", figures.records()
    text = updated(readme.read_text(encoding="utf-8"), list(summaries()))
    readme.write_text(updated_speed(text, records), encoding="utf-8")
    figures.write_results(records)


if __name__ == "__main__":
    main()
