"""What a run is begun with, beside its config: this code, torch and the data. Imports no torch.

A run goes on with exactly these, as half of a run made by one code and half by another is the result of neither.
"""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from resnet_repro.data.options import Photographs
from resnet_repro.errors import UserError
from resnet_repro.networks.options import COMPARATORS
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.job import RESULT_HARDWARE, Job, result_keys
from resnet_repro.runs.options import Run, SettledHardware

TRAINING = ("networks", "data", "training", "options.py", "runs/options.py")
"""The rooms and files that decide a run's numbers."""
NOT_TRAINING = ("data/pack.py",)
"""What no job imports: a run may go on after a change to it."""


def source_sha256(package: Path) -> str:
    """Return the SHA-256 over paths and contents of the source files that decide a run's numbers."""
    digest = hashlib.sha256()
    places = (package / place for place in TRAINING)
    files = (file for place in places for file in ([place] if place.is_file() else place.rglob("*")))
    for path in sorted(files):
        name = path.relative_to(package).as_posix()
        if path.suffix in (".py", ".c") and name not in NOT_TRAINING:
            content = path.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


DECODERS = ["simplejpeg", "pillow"]
LIBRARIES = ("torch", *COMPARATORS, *DECODERS)
CODE = {"code_sha256": source_sha256(Path(__file__).parents[1]), "torch": version("torch")}
"""Of the code that runs: read when it is imported, so that editing a file under a long sweep does not matter."""


def code(options: Run) -> dict[str, str]:
    """Return the versions of this code, torch, a comparator's own library and what decodes photographs."""
    libraries = options.network.libraries
    libraries += DECODERS * isinstance(options.data, Photographs)
    return {**CODE, **{library: version(library) for library in libraries}}


def record(
    run: RunDir, options: Run, *, data_checksum: str, git_commit: str | None, weights: dict[str, Any] | None = None
) -> None:
    """Write down what a run is begun with; `weights` tells of those that it has from another run."""
    about = {} if weights is None else {"begun_with_weights": weights}
    write_json(run.begun, {**code(options), "data_checksum": data_checksum, "git_commit": git_commit, **about})


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


def refuse_other_options(job: Job, begun: Run) -> None:
    """Refuse a folder that holds a run with other options.

    Raises:
        UserError: names the options that differ and the two ways out.
    """
    asked, before = result_keys(job.run), result_keys(begun)
    differ = sorted(key for key in asked | before if asked.get(key) != before.get(key))
    if differ:
        values = ", ".join(f"{key} was {before.get(key)} and is now {asked.get(key)}" for key in differ)
        ways_out = "give the old values to go on, or resume=false to begin anew"
        raise UserError(f"{job.dir} holds another run: {values}; {ways_out}")


def refuse_other_hardware(begun: Mapping[str, Any], now: SettledHardware) -> None:
    """Refuse to go on in another number format, or on another kind of device, than the run was begun with.

    Args:
        begun: the hardware that a checkpoint records.

    Raises:
        UserError: names the options that differ and the two ways out.
    """
    keys = ("accelerator", *RESULT_HARDWARE)
    if differ := [key for key in keys if begun[key] != getattr(now, key)]:
        values = ", ".join(f"hardware.{key} was {begun[key]} and is now {getattr(now, key)}" for key in differ)
        raise UserError(f"{values}: give the old values to go on, or resume=false to begin anew")
