"""What a person reads: every command runs, every link leads somewhere, the site builds without a warning."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_repro.data.pack import main as pack
from tests.helpers.commands import ROOT, environment, run
from tests.helpers.photo_files import make_tree

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXTENDING = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)

ELSEWHERE = {
    "make demo": ("tests/commands/test_demo.py", "test_the_demo_"),
    "make figures": ("tests/commands/test_demo.py", "test_make_figures_"),
    "make test": (".ci/run", "make test\n"),
    "make lint": (".ci/run", "make lint\n"),
    "make docs": (".ci/run", "make docs\n"),
    "make benchmark": ("tests/test_benchmarks.py", "--quick"),
    "uv build": ("tests/commands/test_installed.py", '"uv", "build"'),
    "pip install": ("tests/commands/test_installed.py", '"pip", "install"'),
    "resnet-repro ": ("tests/commands/test_installed.py", "test_an_installed_package_trains_and_reports_"),
    'eval "$(resnet-repro': ("tests/commands/test_installed.py", "test_bash_completes_"),
    'eval "$(python train.py': ("tests/commands/test_installed.py", "test_bash_completes_"),
    "python -m resnet_repro export": ("tests/weights/test_export.py", '"export"'),
    "python -m resnet_repro keep": ("tests/weights/test_keep.py", '"keep", *arguments'),
    "python evaluate.py run=results": ("tests/weights/test_results.py", "test_the_weights_of_a_kept_run_give_"),
    "python evaluate.py run=outputs/imagenet": ("tests/evaluation/test_evaluate_photos.py", "test_two_ranks_"),
    "python evaluate.py run=outputs/cifar10": ("tests/evaluation/test_evaluate.py", "test_an_ensemble_is_"),
    "python report.py wandb=true": ("tests/report/test_dashboard.py", "wandb=true"),
    "wandb sync": ("tests/commands/test_wandb.py", '"sync"'),
    "python train.py hydra/sweeper=optuna": ("tests/commands/test_sweepers.py", "test_optuna_finds_"),
    "torchrun": ("tests/training/test_ddp.py", "test_torchrun_trains_"),
    "srun": ("tests/commands/test_slurm.py", "test_ranks_that_srun_"),
}
"""Commands that another test runs, by their first words: its file, and words of it."""
BY_HAND = {
    "wandb leet": "another's viewer, for a person at a terminal",
    "wandb login": "needs an account",
}
ONLY_PLANNED = ("experiment=v1_table6", "experiment=v2_table1", "experiment=v2_table2", "experiment=cifar_short")
"""Many networks, which tests/papers/test_paper.py trains, or 5,000 images held out, which digits do not have."""


def commands(page: Path) -> list[str]:
    """Return the commands on a page, without their comments."""
    blocks = [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if not language]
    lines = [re.sub(r"(^|\s+)#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


ALL = list(dict.fromkeys(line for page in PAGES if page != EXTENDING for line in commands(page)))
HERE = [line for line in ALL if not line.startswith((*ELSEWHERE, *BY_HAND))]


def test_every_other_command_has_its_test() -> None:
    for words, (file, name) in ELSEWHERE.items():
        assert any(line.startswith(words) for line in ALL), words
        assert name in (ROOT / file).read_text(encoding="utf-8"), (words, file)
    for words in BY_HAND:
        assert any(line.startswith(words) for line in ALL), words
    scripts = {" ".join(shlex.split(line)[:2]) for line in HERE}
    assert scripts == {"python train.py", "python report.py", "python -m"}


def rehearsal(options: list[str], photos: Path, shards: Path) -> list[str]:
    """Return the options of a command for two steps on small images."""
    groups = dict(option.partition("=")[::2] for option in options)
    added = {"logger": "csv"}
    if any(option in ONLY_PLANNED for option in options) or "slurm" in groups.get("hardware", ""):
        added |= {"plan": "true"}
    else:
        added |= {"hardware": "cpu", "data": "digits"}
        if "imagenet" in groups.get("data", ""):
            place = shards if groups["data"] == "imagenet_streaming" else photos
            added |= {"data": groups["data"], "data.root": f"{place}", "data.crop": "32", "schedule.batch_size": "4"}
        elif "torchvision" in groups.get("arch", ""):
            added |= {"arch.image_size": "64"}
        if groups.get("plan", groups.get("summary")) != "true":
            added |= {"schedule.steps": "2"}
    kept = [option for option in options if option.partition("=")[0] not in added]
    return [*kept, *(f"{key}={value}" for key, value in added.items())]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_readme_and_the_docs_runs(tmp_path: Path) -> None:
    photos, shards = make_tree(tmp_path / "photos", num=4), tmp_path / "shards"
    (tmp_path / "results").symlink_to(ROOT / "results")  # as in a fresh clone, where a report needs no run of one's own
    for line in HERE:
        _, script, *options = shlex.split(line)
        if script == "-m":
            assert options == ["resnet_repro", "pack", "FOLDER", "DEST"]
            pack([str(photos), str(shards)])
            continue
        if script == "train.py" and options != ["--help"]:
            options = rehearsal(options, photos, shards)
        status, output = run(script, *options, home=tmp_path)
        assert status == 0, f"{line}\n{script} {' '.join(options)}\n{output}"


# --- extending.md -----------------------------------------------------------------------------------------------------


DECIDED = "    def decided(self, depth: object, images: Images) -> Decided:\n        return Decided(Mlp"


class Copy:
    """A copy of the checkout, into which the examples are typed."""

    def __init__(self, home: Path) -> None:
        self.home, self.package = home, home / "src" / "resnet_repro"
        for folder in ("src", "conf", "results"):
            shutil.copytree(ROOT / folder, home / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for script in ("train.py", "report.py"):
            shutil.copy(ROOT / script, home)

    def run(self, line: str) -> str:
        """Run a command and return what it prints."""
        _, *words = shlex.split(line, comments=True)
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=self.home, env=environment(self.home), capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return " ".join(done.stdout.split())

    def insert(self, file: str, text: str, *, before: str) -> None:
        """Insert a text before the first place of another one."""
        content = (self.package / file).read_text(encoding="utf-8")
        assert before in content, (file, before)
        (self.package / file).write_text(content.replace(before, text + before, 1), encoding="utf-8")

    def write(self, example: str, *, below: str) -> None:
        """Type an example in, where the paragraph before it says."""
        if "KINDS = " in example:
            classes, _, row = example.partition("\n\nKINDS = (..., ")
            self.insert("networks/options.py", f"{classes}\n\n\n", before="KINDS = (")
            self.insert("networks/options.py", f", {row.rstrip()[:-1]}", before=")\n\nassert get_args(Family)")
        elif example.startswith("@claim("):
            with (self.package / "papers/claims.py").open("a", encoding="utf-8") as file:
                file.write(f"\n\n{example}")
        elif "Recipe(" in example:
            self.insert("runs/recipes.py", example, before='    ("modern", "cifar")')
            self.insert("runs/options.py", '"plain_sgd", ', before='"modern"]')
        else:
            path, *_ = re.findall(r"`([\w/]+\.(?:py|yaml))`", below)
            place = self.home if path.startswith("conf/") else self.package
            (place / path).write_text(example, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_example_of_extending_works_as_typed(tmp_path: Path) -> None:
    copy, num_commands = Copy(tmp_path / "checkout"), 0
    for section in EXTENDING.read_text(encoding="utf-8").split("\n## ")[1:]:
        if section.startswith("An option"):
            copy.insert("networks/options.py", "    bias: bool = True\n\n", before=DECIDED)
            copy.insert("networks/mlp.py", ", bias=network.bias", before=")\n    )")
            with (copy.home / "conf/arch/mlp.yaml").open("a", encoding="utf-8") as file:
                file.write("bias: true\n")
        for block in BLOCK.finditer(section):
            (language, text), paragraph = block.groups(), section[: block.start()].rstrip().split("\n\n")[-1]
            if language:
                copy.write(text, below=paragraph)
                continue
            for line in text.splitlines():
                copy.run(line)
                num_commands += 1
    assert num_commands == 6
    assert "has a lower validation error than plain of any depth" in copy.run("python report.py details=true")


# --- The site ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(?s)```.*?```", "", text)):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
