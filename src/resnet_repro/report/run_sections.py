"""The section of each run on the report's page: its folder, its origin, how it differs from other runs."""

import math
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from resnet_repro.papers import rows as paper
from resnet_repro.papers.rows import TESTS
from resnet_repro.report.charts import Chart, Line, Panel
from resnet_repro.report.training_curves import LIMITS
from resnet_repro.runs.finished import SPLITS, FinishedRun
from resnet_repro.runs.groups import Comparison, differences
from resnet_repro.runs.job import flatten
from resnet_repro.runs.options import Run

NETWORK = ("order", "shortcut", "mix")  # the words that make a network one of a paper, at any depth
FILES = ("manifest.json", "metrics.csv", "responses.csv", "gradients.csv", "evaluations.json", "train.log")


def anchors(comparisons: list[Comparison]) -> dict[Path, str]:
    """Return a unique id of each run's section on the page, by the run's folder."""
    ids: dict[Path, str] = {}
    for run in (run for comparison in comparisons for run in comparison.runs):
        name = "run-" + re.sub(r"[^\w.-]+", "-", run.label)
        while name in ids.values():
            name += "-"
        ids[run.directory] = name
    return ids


def papers_of(run: Run) -> list[str]:
    """Return the papers that train this network, at any depth and on any data: [], ["v1"] or ["v1", "v2"]."""
    if not run.network.of_units:
        return []
    ours = {key: getattr(run.network, key) for key in NETWORK}
    rows = [row for row in paper.registry() if row.cell and ours.items() <= dict(row.cell.words).items()]
    return sorted({row.source.split()[0] for row in rows})


def facts(run: FinishedRun) -> dict[str, Any]:
    """Return a run's config, machine, versions, commit and data, flat, without what its network's name says."""
    keys = ("machine", "packages", "git_commit", "data_checksum")
    flat = dict(flatten({"config": run.options.record()} | {key: run.manifest.get(key) for key in keys}))
    named = ("config.arch.", "config.depth", "config.seed", "config.schedule.warmup")
    return {
        key.removeprefix("config.").replace("packages.", "version of "): value
        for key, value in flat.items()
        if not key.startswith(named)
    }


def of_comparison(comparison: Comparison, *, page: Path, ids: dict[Path, str]) -> dict[str, Any]:
    """Return the facts that all runs of a comparison share, and each run's section of the page."""
    flat = [facts(run) for run in comparison.runs]
    varying = sorted(differences(flat))
    pairs = [(cell, run) for cell in comparison.cells for run in cell.runs]
    return {
        "common": {key: value for key, value in sorted(flat[0].items()) if key not in varying},
        "runs": [
            {
                "id": ids[run.directory],
                "run": run,
                "network": cell.name,
                "papers": papers_of(run.options),
                "errors": {split: run.results.get(f"{split}/error") for split in comparison.splits},
                "facts": summary(run.manifest),
                "evaluations": [evaluation(each) for each in run.evaluations],
                "differs": {key: each.get(key) for key in varying},
                "config": yaml.safe_dump(run.options.record(), sort_keys=False, allow_unicode=True),
                "curves": curves(run),
                "files": {name: link(run.directory / name, page) for name in FILES if (run.directory / name).exists()},
            }
            for (cell, run), each in zip(pairs, flat, strict=True)
        ],
    }


def summary(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a run's main facts by their names for people; facts that the manifest lacks are left out."""
    machine, packages = manifest.get("machine") or {}, manifest.get("packages") or {}
    lines = {
        "command": manifest.get("command"),
        "departs from its recipe in": ", ".join(f"{k}={v}" for k, v in manifest["departures"].items()) or "nothing",
        "started": manifest.get("started"),
        "finished": manifest.get("finished"),
        "processor": machine.get("gpu") or machine.get("cpu"),
        "torch": packages.get("torch"),
        "commit": manifest.get("git_commit"),
        "no commit, as": manifest.get("why_no_commit"),
        "SHA-256 of the code": manifest.get("code_sha256"),
        "checksum of the data": manifest.get("data_checksum"),
        "SHA-256 of the weights": manifest.get("weights_sha256"),
        "at wandb.ai": manifest.get("wandb_url"),
    }
    return {key: value for key, value in lines.items() if value is not None}


def evaluation(entry: dict[str, Any]) -> dict[str, Any]:
    """Return one test of a run's weights: the way to test, the images, the errors in %, the ensemble's runs."""
    recomputed = f"batch norms recomputed on {entry['num_bn_images']:,} images" if entry["num_bn_images"] else ""
    return {
        "test": entry["test"],
        "how": ", ".join(filter(None, (TESTS[entry["test"]], recomputed, entry["precision"]))),
        "images": f"{entry['num_images']:,} {SPLITS[entry['split']]}",
        "errors": [entry["error"], entry["error_top5"]],
        "ensemble": entry["runs"] if len(entry["runs"]) > 1 else [],
        "tested": entry["tested"],
    }


def link(file: Path, page: Path) -> str:
    """Return the relative address of a file from the page: it works as long as neither folder moves."""
    return quote(Path(os.path.relpath(file, page.parent)).as_posix())


def curves(run: FinishedRun) -> Chart | None:
    """Return the run's errors in % over steps, a line a split, cut off at the top; None if nothing was measured."""
    lines = []
    for split, color in (("train", "c5"), ("test", "c0"), ("val", "c1")):
        errors = zip(run.curves["step"], run.curves.get(f"{split}/error", []), strict=False)
        if points := [(step, error) for step, error in errors if math.isfinite(error)]:
            lines.append(Line(SPLITS[split], points, color, is_dashed=split == "train"))
    if not lines:
        return None
    last = max(line.points[-1][0] for line in lines) or 1
    panel = Panel("", lines, (0, last), (0, top_of(lines)))
    return Chart("run", "", "", "step", "error, %", [panel], " %")


def top_of(lines: list[Line]) -> float:
    """Return the top of the y axis in %: above all but the first quarter of the points, so that the end is legible."""
    late = [error for line in lines for _, error in line.points[len(line.points) // 4 :]]
    return next((limit for limit in LIMITS if limit >= max(late, default=100.0)), 100)
