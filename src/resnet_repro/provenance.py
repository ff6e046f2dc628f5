"""What the report's page holds of each run: where it lies, what it was made from, how it differs from others."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from resnet_repro import curve_svg, paper
from resnet_repro.config import flatten
from resnet_repro.evaluations import TESTS
from resnet_repro.evidence import SPLITS
from resnet_repro.finished import Run
from resnet_repro.results import Protocol, differences

NETWORK = ("order", "shortcut", "mix")  # of a cell: what makes it a network of a paper, at whatever depth
FILES = ("manifest.json", "metrics.csv", "responses.csv", "gradients.csv", "evaluations.json", "train.log")


def anchors(protocols: list[Protocol]) -> dict[Path, str]:
    """For each run's folder the id of its section on the page, of which no two are equal."""
    found: dict[Path, str] = {}
    for run in (run for protocol in protocols for run in protocol.runs):
        name = "run-" + re.sub(r"[^\w.-]+", "-", run.label)
        while name in found.values():
            name += "-"
        found[run.directory] = name
    return found


def papers_of(config: dict[str, Any]) -> list[str]:
    """The papers that train this network, at whatever depth and on whatever data: [], ["v1"], ["v1", "v2"]."""
    ours = [config["arch"].get(key) for key in NETWORK]
    rows = [row for row in paper.registry() if row.cell and [row.cell.get(key) for key in NETWORK] == ours]
    return sorted({row.source.split()[0] for row in rows})


def facts(run: Run) -> dict[str, Any]:
    """What a run was made from, flat: config, machine, versions, commit, data; less what its network's name says."""
    keys = ("config", "machine", "packages", "git_commit", "data_checksum")
    flat = dict(flatten({key: run.manifest.get(key) for key in keys}))
    named = ("config.arch.", "config.depth", "config.seed", "config.schedule.warmup")
    return {
        key.removeprefix("config.").replace("packages.", "version of "): value
        for key, value in flat.items()
        if not key.startswith(named)
    }


def of_protocol(protocol: Protocol, *, page: Path, ids: dict[Path, str]) -> dict[str, Any]:
    """The facts that all runs of a protocol share, and each run's section of the page."""
    flat = [facts(run) for run in protocol.runs]
    varying = sorted(differences(flat))
    pairs = [(cell, run) for cell in protocol.cells for run in cell.runs]
    return {
        "common": {key: value for key, value in sorted(flat[0].items()) if key not in varying},
        "runs": [
            {
                "id": ids[run.directory],
                "run": run,
                "network": cell.name,
                "papers": papers_of(run.config),
                "errors": {split: run.results.get(f"{split}/error") for split in protocol.splits},
                "facts": summary(run.manifest),
                "evaluations": [evaluation(each) for each in run.evaluations],
                "differs": {key: each.get(key) for key in varying},
                "config": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
                "curves": curve_svg.draw(run),
                "files": {name: link(run.directory / name, page) for name in FILES if (run.directory / name).exists()},
            }
            for (cell, run), each in zip(pairs, flat, strict=True)
        ],
    }


def summary(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a person asks first of a run, in words; what its manifest does not have is left out."""
    machine, packages = manifest.get("machine") or {}, manifest.get("packages") or {}
    told = {
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
    return {key: value for key, value in told.items() if value is not None}


def evaluation(entry: dict[str, Any]) -> dict[str, Any]:
    """A line on one test of a run's weights: how, on what, the errors in %, and with which other runs."""
    anew = f"batch norms anew on {entry['num_bn_images']:,} images" if entry["num_bn_images"] else ""
    return {
        "test": entry["test"],
        "how": ", ".join(filter(None, (TESTS[entry["test"]], anew, entry["precision"]))),
        "images": f"{entry['num_images']:,} {SPLITS[entry['split']]}",
        "errors": [entry["error"], entry["error_top5"]],
        "ensemble": entry["runs"] if len(entry["runs"]) > 1 else [],
        "tested": entry["tested"],
    }


def link(file: Path, page: Path) -> str:
    """The way from the page to a file, as a relative address: it works where both folders lie as they did."""
    return quote(Path(os.path.relpath(file, page.parent)).as_posix())
