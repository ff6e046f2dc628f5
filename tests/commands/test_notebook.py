"""The notebook for students, docs/degradation.ipynb, in a real kernel."""

from pathlib import Path

import nbformat
import pytest

from docs.notebook import NOTEBOOK, execute
from tests.helpers.commands import environment, manifests


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def num_pictures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_the_notebook_has_the_outputs_of_one_run_from_top_to_bottom() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert num_pictures(notebook) == 3
    assert not [
        output for output in outputs(notebook) if output.output_type == "error" or output.get("name") == "stderr"
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_cell_of_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:  # shorter runs: `make demo` is the test of what long ones show
        cell.source = cell.source.replace('"data=digits"', '"data=digits", "schedule.steps=22"')
    execute(notebook, tmp_path)
    assert num_pictures(notebook) == 3
    names = [f"{arch}-{depth}-s0__steps=22" for arch in ("plain", "resnet_v2") for depth in (20, 56)]
    assert sorted(manifests(tmp_path / "outputs")) == sorted([*names, "plain-56-s0__init_from=20__steps=22"])
    stderr = [output.text for output in outputs(notebook) if output.get("name") == "stderr"]
    assert stderr == []
