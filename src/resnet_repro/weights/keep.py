"""`python -m resnet_repro keep RUN ...`: copy finished runs to results/: records, curves and small weights."""

import shutil
from pathlib import Path

from resnet_repro.errors import UserError
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.records import without_folders
from resnet_repro.training.checkpoints import trained
from resnet_repro.weights.export import save

USAGE = "give the folders of finished runs: python -m resnet_repro keep outputs/cifar10/plain-20-s0"
MAX_MB = 16
"""Weights of more megabytes are kept on request alone: a repository is no place for them."""


def keep(run: RunDir, results: Path, *, with_weights: bool | None = None) -> tuple[Path, str]:
    """Copy what reports read, some 60 kB, and the weights to `results/DATA/NAME`, without this machine's folders.

    Args:
        with_weights: by default, whether there are at most `MAX_MB` of weights.

    Returns:
        The copy's folder, and why it is without the weights; empty if it has them.

    Raises:
        UserError: if the run is not finished, its code is in no commit, its weights are not those of its manifest, or
            another run of this name is kept.
    """
    if not run.is_done:
        raise UserError(f"{run.path} holds no finished run; {USAGE}")
    manifest = without_folders(read_json(run.manifest))
    commit = manifest["git_commit"]
    if commit is None or commit.endswith("+"):
        why = manifest.get("why_no_commit", "the reason is not on record")
        if commit is not None:
            why = f"changed files beside commit {commit[:12]}: commit them"
        raise UserError(f"{run.path} was made by code in no commit ({why}); then make the run again with resume=false")
    kept = RunDir(results / manifest["config"]["data"]["name"] / manifest["name"])
    if kept.is_done and read_json(kept.manifest) != manifest:
        raise UserError(f"{kept.path} holds another run of this name; remove that folder first to replace the run")
    if with_weights and not run.checkpoint_files():
        raise UserError(f"{run.path} has no checkpoint, and so no weights to keep; leave weights=true out")
    if with_weights is False:
        why = "weights=false"
    elif not run.checkpoint_files():
        why = "the run has no checkpoint"
    else:
        net = trained(run)
        megabytes = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values()) / 1e6
        is_small = megabytes <= MAX_MB
        why = "" if is_small or with_weights else f"{megabytes:.0f} MB; weights=true keeps them"
    kept.path.mkdir(parents=True, exist_ok=True)
    if not why:
        save(net, kept.weights)
    for file in (run.metrics, run.responses, run.gradients, run.evaluations):
        if file.exists():
            shutil.copyfile(file, kept.path / file.name)
    write_json(kept.manifest, manifest)
    return kept.path, why


def main(arguments: list[str]) -> None:
    """Keep the runs in these folders."""
    asked = {"weights=true": True, "weights=false": False}
    folders = [Path(argument) for argument in arguments if argument not in asked]
    if not folders:
        raise UserError(f"no run was given; {USAGE}")
    with_weights = next((asked[argument] for argument in reversed(arguments) if argument in asked), None)
    for folder in folders:
        path, why = keep(RunDir(folder), Path("results"), with_weights=with_weights)
        print(f"{path}, without its weights: {why}" if why else path)
