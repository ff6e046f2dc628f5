"""`python -m resnet_repro keep RUN ...`: copy records and curves of finished runs to results/, without weights."""

import shutil
from pathlib import Path

from resnet_repro.errors import UserError
from resnet_repro.runs.folder import RunDir, read_json

USAGE = "give the folders of finished runs: python -m resnet_repro keep outputs/cifar10/plain-20-s0"


def keep(run: RunDir, results: Path) -> Path:
    """Copy the files of a run that reports read, some 20 kB, to `results/DATA/NAME`. Return the copy's folder.

    Raises:
        UserError: if the run is not finished, its code is in no commit, or another run of this name is kept.
    """
    if not run.is_done:
        raise UserError(f"{run.path} holds no finished run; {USAGE}")
    manifest = read_json(run.manifest)
    commit = manifest["git_commit"]
    if commit is None or commit.endswith("+"):
        why = manifest.get("why_no_commit", "the reason is not on record")
        if commit is not None:
            why = f"changed files beside commit {commit[:12]}: commit them"
        raise UserError(f"{run.path} was made by code in no commit ({why}); then make the run anew with resume=false")
    kept = RunDir(results / manifest["config"]["data"]["name"] / manifest["name"])
    if kept.is_done and read_json(kept.manifest) != manifest:
        raise UserError(f"{kept.path} holds another run of this name; remove that folder first to replace the run")
    kept.path.mkdir(parents=True, exist_ok=True)
    for file in (run.metrics, run.responses, run.gradients, run.evaluations, run.manifest):
        if file.exists():
            shutil.copyfile(file, kept.path / file.name)
    return kept.path


def main(arguments: list[str]) -> None:
    """Keep the runs in these folders."""
    if not arguments:
        raise UserError(f"no run was given; {USAGE}")
    for path in map(Path, arguments):
        print(keep(RunDir(path), Path("results")))
