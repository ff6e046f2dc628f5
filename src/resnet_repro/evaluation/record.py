"""A request to `python evaluate.py`, and the entries that it records and shows."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnet_repro.data.options import Photographs
from resnet_repro.errors import UserError
from resnet_repro.papers import rows
from resnet_repro.papers.rows import TESTS
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.options import Run
from resnet_repro.runs.records import upgraded


@dataclass(frozen=True)
class Request:
    """A checked request."""

    runs: tuple[Path, ...]
    """Folders of finished runs; the softmax of several runs is averaged."""
    test: str
    options: Run
    """The runs' data and schedule, with the hardware and data folder of this command."""
    num_bn_images: int
    """Number of training images on which to recompute batch-norm statistics; 0 keeps the trained statistics."""

    @property
    def manifests(self) -> list[dict[str, Any]]:
        return [upgraded(read_json(RunDir(path).manifest)) for path in self.runs]

    @property
    def weights(self) -> list[str]:
        return [manifest["weights_sha256"] for manifest in self.manifests]


def entry(request: Request, measured: dict[str, Any], split: str) -> dict[str, Any]:
    """Return the record of a split: the test, the errors from `evaluate_runs`, and the paper's errors beside them."""
    manifests = request.manifests
    alone = manifests[0] if len(manifests) == 1 and measured["data_checksum"] == manifests[0]["data_checksum"] else None
    return {
        "test": request.test,
        "split": split,
        "runs": [manifest["name"] for manifest in manifests],
        "num_bn_images": request.num_bn_images,
        **measured["splits"][split],
        **rows.printed_errors(alone, test=request.test),
        "precision": measured["precision"],
        "weights_sha256": request.weights,
        "data_checksum": measured["data_checksum"],
        "tested": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def recorded(run: RunDir) -> list[dict[str, Any]]:
    """Return the entries of earlier tests of a run.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        return run.read_evaluations()
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{run.evaluations} is damaged; move it away, and repeat the tests that it held") from None


def record(request: Request, entries: list[dict[str, Any]]) -> None:
    """Add the entries to the evaluations.json of every run in the request. A repeated test replaces its old entry."""
    keys = ("test", "split", "runs", "num_bn_images", "precision", "weights_sha256", "data_checksum")
    tests = [[entry[key] for key in keys] for entry in entries]
    for run in map(RunDir, request.runs):
        others = [old for old in recorded(run) if [old[key] for key in keys] not in tests]
        write_json(run.evaluations, {"evaluations": others + entries})


def show(request: Request, entries: list[dict[str, Any]], console: Console, *, seconds: float) -> None:
    """Print the errors, and beside them the paper's errors of the same network in the same test."""
    names = [manifest["name"] for manifest in request.manifests]
    console.print(f"{' + '.join(map(escape, names))}, test={request.test}: {TESTS[request.test]}", highlight=False)
    data = request.options.data
    if isinstance(data, Photographs) and (crop := data.crop) != 224:
        console.print(f"sizes in proportion to the training's crops of {crop} pixels, not 224", highlight=False)
    tested, trained = entries[0]["precision"], request.manifests[0]["config"]["hardware"]["precision"]
    if tested != trained:
        console.print(f"tested in {tested}, trained in {trained}: the errors may differ by rounding", highlight=False)
    if request.num_bn_images:
        console.print("batch-norm statistics recomputed on training images")
    table = Table()
    for heading in ("split", "images", "top-1 error", "top-5 error", "paper"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for entry in entries:
        ours = [f"{entry[key]:.2f} %" for key in ("error", "error_top5")]
        papers = [f"{entry[key]:.2f} %" for key in ("paper_error", "paper_error_top5") if entry[key] is not None]
        table.add_row(entry["split"], f"{entry['num_images']:,}", *ours, ", top-5 ".join(papers))
    console.print(table)
    file = RunDir(request.runs[0]).evaluations
    console.print(f"{seconds:.0f} s. Recorded in {escape(str(file))}", highlight=False)
