"""The files beside the code say what the code's own settings say."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


def lint_commands() -> list[str]:
    """Return the commands of the Makefile's `lint` target, `$(BIN)` replaced by the folder."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (folder,) = re.findall(r"^BIN := (\S+)$", makefile, re.M)
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.+\n)+)", makefile, re.M)
    return [line.strip().replace("$(BIN)", folder) for line in recipe.splitlines()]


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_hooks_run_exactly_the_commands_of_make_lint() -> None:
    hooks = [hook for repo in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == lint_commands()
    for hook in hooks:  # pre-commit else adds file names to the command, or leaves the hook out
        assert hook["language"] == "system", hook["id"]
        assert hook["pass_filenames"] is False, hook["id"]
        assert hook["always_run"] is True, hook["id"]


def test_pre_commit_accepts_its_config_without_a_warning() -> None:
    command = [sys.executable, "-m", "pre_commit", "validate-config", ROOT / ".pre-commit-config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_citation_names_this_version_and_both_papers() -> None:
    citation = read_yaml("CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = {"title": project["name"], "version": project["version"], "license": project["license"]}
    assert {key: citation[key] for key in own} == own
    preprints = [each["value"] for paper in citation["references"] for each in paper["identifiers"]]
    assert preprints == ["arXiv:1512.03385", "arXiv:1603.05027"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for paper, preprint in zip(citation["references"], preprints, strict=True):
        assert f"*{paper['title']}*" in readme
        assert preprint in readme
