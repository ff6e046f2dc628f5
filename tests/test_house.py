"""How the house is laid out: tests mirror the rooms of the package, and no group of options reads another."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import resnet_repro

TESTS = Path(__file__).parent
PACKAGE = Path(resnet_repro.__file__).parent
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def imported_modules(file: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def test_no_file_imports_a_test_file() -> None:
    test_files = {file.stem for file in TESTS.rglob("test_*.py")} | {"conftest"}
    imported = {
        str(file.relative_to(TESTS)): [name for name in imported_modules(file) if test_files & {*name.split(".")}]
        for file in TESTS.rglob("*.py")
    }
    assert {file: names for file, names in imported.items() if names} == {}


def test_every_room_has_tests_and_every_test_a_room() -> None:
    assert {file.parent.name for file in TESTS.glob("*/test_*.py")} == ROOMS | {"commands"}
    deeper = set(TESTS.rglob("test_*.py")) - set(TESTS.glob("*/test_*.py")) - set(TESTS.glob("test_*.py"))
    assert deeper == set()


def test_no_group_of_conf_reads_another() -> None:
    """What depends on two groups is decided in Python: `resnet_repro.runs.recipes`."""
    for group in ("arch", "data", "schedule", "protocol", "logger"):
        for path in (TESTS.parent / "conf" / group).glob("*.yaml"):
            for name in re.findall(r"\$\{([^}]*)\}", path.read_text(encoding="utf-8")):
                assert name.startswith((".", f"{group}.")), f"{path.name} reads {name}"
