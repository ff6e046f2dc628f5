"""Run docs/degradation.ipynb again, and save its outputs (`make notebook`)."""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("degradation.ipynb")


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Give a notebook the outputs of a new kernel in this folder, where its runs go."""
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, resources=resources, coalesce_streams=True, record_timing=False).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version of this Python


if __name__ == "__main__":
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    nbformat.write(notebook, NOTEBOOK)
