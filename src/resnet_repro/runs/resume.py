"""What a run is begun with, beside its config: this code, torch and the data. Imports no torch.

A run goes on with exactly these, as half of a run made by one code and half by another is the result of neither.
"""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from resnet_repro.data.options import of_photos
from resnet_repro.errors import UserError
from resnet_repro.networks.options import COMPARATORS
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.job import RESULT_HARDWARE, Config, Job, result_keys

NOT_TRAINING = (
    *("ablation_rules.py", "claim_rules.py", "claims.py", "cli.py", "curve_svg.py", "dashboard.py"),
    *("data/pack.py", "display.py", "evaluate.py", "evaluations.py", "evidence.py", "experiment.py", "export.py"),
    *("figures.py", "finished.py", "gallery.py", "intervals.py", "keep.py", "layer_figures.py", "options.py"),
    *("page.py", "paper.py", "provenance.py", "readme.py", "report.py", "results.py", "summary.py", "tester.py"),
    *("verdict_tables.py", "verdicts.py", "views.py"),
)
"""What only tests or shows runs: no job imports it, and a run may go on after a change to it."""


def source_sha256(package: Path) -> str:
    """SHA-256 over paths and contents of the package's source files, those left out that only show runs."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package).as_posix()
        if path.suffix in (".py", ".c") and name not in NOT_TRAINING:
            content = path.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


DECODERS = ["simplejpeg", "pillow"]
LIBRARIES = ("torch", *COMPARATORS, *DECODERS)
CODE = {"code_sha256": source_sha256(Path(__file__).parents[1]), "torch": version("torch")}
"""Of the code that runs: read when it is imported, so that editing a file under a long sweep does not matter."""


def code(config: Config) -> dict[str, str]:
    """What makes a run of this config: this code, torch, a comparator's own library, what decodes photographs."""
    source = config["arch"].get("source")
    libraries = ([] if source is None else [source]) + DECODERS * of_photos(config["data"])
    return {**CODE, **{library: version(library) for library in libraries}}


def record(
    run: RunDir, config: Config, *, data_checksum: str, git_commit: str | None, weights: dict[str, object] | None = None
) -> None:
    """Write down what a run is begun with; `weights` tells of those that it has from another run."""
    about = {} if weights is None else {"begun_with_weights": weights}
    write_json(run.begun, {**code(config), "data_checksum": data_checksum, "git_commit": git_commit, **about})


def refuse_another(run: RunDir, now: Mapping[str, str]) -> None:
    """Refuse to go on with another code, torch or data than the run was begun with.

    Args:
        now: what is there now, as many of the keys as are known.

    Raises:
        UserError: names the keys that differ and the two ways out.
    """
    begun = read_json(run.begun) if run.begun.exists() else {}
    differ = [key for key in now if begun.get(key) != now[key]]
    if not differ:
        return
    values = ", ".join(f"{key} was {_short(begun.get(key))} and is now {_short(now[key])}" for key in differ)
    back = ", ".join(_way_back(key, begun) for key in differ)
    raise UserError(
        f"{run.path} was begun with something else: {values}; {back} to go on, or resume=false to begin anew"
    )


def _short(value: str | None) -> str:
    return "not recorded" if value is None else value[:12]


def _way_back(key: str, begun: Mapping[str, str | None]) -> str:
    if key == "data_checksum":
        return "restore the data"
    if key in LIBRARIES:
        return f"install {key} {begun[key]}" if key in begun else f"install the old {key}"
    commit = begun.get("git_commit")
    if commit is None:
        return "restore the old code"
    return f"go back to commit {commit.rstrip('+')[:12]}" + " and what was changed after it" * commit.endswith("+")


def _refuse_another(job: Job, found: Config) -> None:
    asked, before = result_keys(job.config), result_keys(found)
    differ = sorted(key for key in asked | before if asked.get(key) != before.get(key))
    if differ:
        values = ", ".join(f"{key} was {before.get(key)} and is now {asked.get(key)}" for key in differ)
        ways_out = "give the old values to go on, or resume=false to begin anew"
        raise UserError(f"{job.dir} holds another run: {values}; {ways_out}")


def _refuse_other_hardware(begun: dict[str, Any], now: dict[str, Any]) -> None:
    """A run goes on in the number format and on the kind of device that it was begun with, or not at all."""
    keys = ("accelerator", *RESULT_HARDWARE)
    if differ := [key for key in keys if begun[key] != now[key]]:
        values = ", ".join(f"hardware.{key} was {begun[key]} and is now {now[key]}" for key in differ)
        raise UserError(f"{values}: give the old values to go on, or resume=false to begin anew")
