"""What is asked of `python evaluate.py`, and what it records and shows. Imports no torch."""

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
    """What a command asks for, checked."""

    runs: tuple[Path, ...]
    """Folders of finished runs; the softmax of several is averaged."""
    test: str
    options: Run
    """Data and schedule of the runs, hardware and data folder of this command."""
    num_bn_images: int
    """Training images that batch-norm statistics are computed anew on; 0 keeps the old ones."""

    @property
    def manifests(self) -> list[dict[str, Any]]:
        return [upgraded(read_json(RunDir(path).manifest)) for path in self.runs]

    @property
    def weights(self) -> list[str]:
        return [manifest["weights_sha256"] for manifest in self.manifests]


def entry(request: Request, found: dict[str, Any], split: str) -> dict[str, Any]:
    """What is recorded of a split: how it was tested, what `evaluate_runs` has found, the paper's errors beside it."""
    manifests = request.manifests
    alone = manifests[0] if len(manifests) == 1 and found["data_checksum"] == manifests[0]["data_checksum"] else None
    return {
        "test": request.test,
        "split": split,
        "runs": [manifest["name"] for manifest in manifests],
        "num_bn_images": request.num_bn_images,
        **found["splits"][split],
        **rows.printed_errors(alone, test=request.test),
        "precision": found["precision"],
        "weights_sha256": request.weights,
        "data_checksum": found["data_checksum"],
        "tested": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def recorded(run: RunDir) -> list[dict[str, Any]]:
    """What was found of a run before.

    Raises:
        UserError: where the file is damaged.
    """
    try:
        return run.read_evaluations()
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{run.evaluations} is damaged; move it away, and test again what it held") from None


def record(request: Request, entries: list[dict[str, Any]]) -> None:
    """Add to the evaluations.json of every run that took part; of two of the same kind the later one stays."""
    kind = ("test", "split", "runs", "num_bn_images", "precision", "weights_sha256", "data_checksum")
    for run in map(RunDir, request.runs):
        new = [[each[key] for key in kind] for each in entries]
        kept = [each for each in recorded(run) if [each[key] for key in kind] not in new]
        write_json(run.evaluations, {"evaluations": kept + entries})


def show(request: Request, entries: list[dict[str, Any]], console: Console, *, seconds: float) -> None:
    """Print the errors, and the paper's beside them where the same network was tested in the same way."""
    names = [manifest["name"] for manifest in request.manifests]
    console.print(f"{' + '.join(map(escape, names))}, test={request.test}: {TESTS[request.test]}", highlight=False)
    data = request.options.data
    if isinstance(data, Photographs) and (crop := data.crop) != 224:
        console.print(f"sizes in proportion to the training's crops of {crop} pixels, not 224", highlight=False)
    if request.num_bn_images:
        console.print("batch-norm statistics computed anew on training images")
    drawn = Table()
    for heading in ("split", "images", "top-1 error", "top-5 error", "paper"):
        drawn.add_column(heading, justify="left" if heading == "split" else "right")
    for each in entries:
        errors = [f"{each[key]:.2f} %" for key in ("error", "error_top5")]
        theirs = [f"{each[key]:.2f} %" for key in ("paper_error", "paper_error_top5") if each[key] is not None]
        drawn.add_row(each["split"], f"{each['num_images']:,}", *errors, ", top-5 ".join(theirs))
    console.print(drawn)
    where = request.runs[0] / RunDir(request.runs[0]).evaluations.name
    console.print(f"{seconds:.0f} s. Recorded in {escape(str(where))}", highlight=False)
