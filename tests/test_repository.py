"""The files beside the code say what the code's own settings say."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import picture

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "resnet_repro"


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


def imported(path: Path) -> set[str]:
    """Return the packages that a file imports, without their modules."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def test_every_package_that_the_code_imports_is_a_declared_dependency() -> None:
    """Else a run breaks as soon as a dependency of ours drops the one that it had brought along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {re.split(r"[\[<>=]", line)[0] for line in [*project["dependencies"], *extras["streaming"]]}
    packages = set().union(*(imported(path) for path in (ROOT / "src").rglob("*.py")))
    others = packages - set(sys.stdlib_module_names) - {"resnet_repro", "hydra_plugins"}
    sources = packages_distributions()
    missing = {name for name in others if not declared & {each.lower() for each in sources[name]}}
    assert missing <= {"botocore"}, missing  # a part of boto3
    assert {"torch", "PIL", "yaml", "pydantic"} <= others


def test_the_citation_names_this_version_and_both_papers() -> None:
    citation = read_yaml("CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = {"title": project["name"], "version": project["version"], "license": project["license"]}
    assert {key: citation[key] for key in own} == own
    preprints = [each["value"] for paper in citation["references"] for each in paper["identifiers"]]
    assert preprints == ["arXiv:1512.03385", "arXiv:1603.05027"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for paper, preprint in zip(citation["references"], preprints, strict=True):
        assert f"*{paper['title']}*" in readme
        assert preprint in readme


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_containers_name_stages_and_make_targets_that_exist() -> None:
    settings = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    build = settings["build"]
    assert (ROOT / ".devcontainer" / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert build["target"] in re.findall(r"^FROM .* AS (\w+)$", dockerfile, re.M)
    used = re.findall(r"make(?:\", \"| )(\w+)", settings["postCreateCommand"] + dockerfile)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {"install", "demo"} <= set(used) <= set(targets)


def test_the_picture_of_the_rooms_is_drawn_from_the_contracts() -> None:
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.drawn(), "run `make readme`"
    rooms = {"containers": ["a"], "layers": ["top", "left | right", "this : that"]}
    drawn = picture.picture(rooms, {"source_modules": ["a.right", "a.that.part"]})
    assert re.findall(r">(\w+)</text>", drawn) == ["top", "left", "right", "this", "that"]
    greys = re.findall(r'fill="#(\w+)"/>\n<text', drawn)
    assert [grey == "e3e6ea" for grey in greys] == [False, False, True, False, False]
    assert drawn.count("<path") == 2


def test_the_table_of_the_rooms_has_each_of_them_in_order() -> None:
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    rooms = [room for row in rows for room in re.findall(r"`(\w+)(?:/|\.py)`", row)]
    layers = enumerate(picture.contracts()["rooms"]["layers"])
    layer_of = {room: number for number, layer in layers for room in re.findall(r"\w+", layer)}
    assert sorted(rooms) == sorted(layer_of)
    assert rooms == sorted(rooms, key=layer_of.__getitem__)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_a_document_names_only_files_that_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    files = re.findall(r"`([\w./]+\.(?:py|yaml|toml|lock))`", text)
    assert len(files) > 5
    assert [file for file in files if not (ROOT / file).exists() and not (PACKAGE / file).exists()] == []


def test_a_module_of_the_no_torch_contract_imports_no_torch() -> None:
    """The contract ignores some imports inside of functions. None of them may run when its module is imported."""
    contract = picture.contracts()["no-torch"]
    modules = []
    for source in contract["source_modules"]:
        path = ROOT / "src" / source.replace(".", "/")
        names = [file.stem for file in path.glob("*.py") if file.stem != "__init__"]
        modules += [f"{source}.{name}" for name in names] or [source]
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert imported >= set(modules)
    assert not imported & set(contract["forbidden_modules"])
