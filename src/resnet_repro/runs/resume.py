"""The code, libraries and data that a run is begun with.

A run resumes only with the same ones: if half of a run is made by one code and half by another, it is the result of
neither.
"""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from resnet_repro.data.options import Photographs
from resnet_repro.errors import UserError
from resnet_repro.networks import libraries
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.job import RESULT_HARDWARE, Job, result_keys
from resnet_repro.runs.options import Run, SettledHardware

TRAINING = ("networks", "data", "training", "options.py", "runs/options.py")
"""The rooms and files that decide a run's numbers."""
NOT_TRAINING = ("data/pack.py",)
"""Files that no job imports. A run may resume after they have changed."""


def source_sha256(package: Path) -> str:
    """Return a SHA-256 over paths and contents of the source files that decide a run's numbers."""
    digest = hashlib.sha256()
    places = [package / place for place in TRAINING]
    for path in sorted(file for place in places for file in (place, *place.rglob("*"))):
        name = path.relative_to(package).as_posix()
        if path.suffix in (".py", ".c") and name not in NOT_TRAINING:
            content = path.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


DECODERS = ["simplejpeg", "pillow"]
LIBRARIES = ("torch", *libraries.LIBRARIES, *DECODERS)
CODE = {"code_sha256": source_sha256(Path(__file__).parents[1]), "torch": version("torch")}
"""Checksum and version of the running code, read at import, so that files may be edited during a long sweep."""


def code(options: Run) -> dict[str, str]:
    """Return the versions of this code, torch, a comparator's library, and the decoders if the data are photographs."""
    decoders = DECODERS if isinstance(options.data, Photographs) else []
    return CODE | {library: version(library) for library in [*options.network.libraries, *decoders]}


def record(
    run: RunDir, options: Run, *, data_checksum: str, git_commit: str | None, weights: dict[str, Any] | None = None
) -> None:
    """Write begun.json; `weights` is the record of weights that the run has from another run."""
    origin = {} if weights is None else {"begun_with_weights": weights}
    write_json(run.begun, {**code(options), "data_checksum": data_checksum, "git_commit": git_commit, **origin})


def refuse_another(run: RunDir, now: Mapping[str, str]) -> None:
    """Refuse to resume a run with other code, libraries or data than it was begun with.

    Args:
        now: the current checksums and versions, as far as they are known.

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
        f"{run.path} was begun with something else: {values}; {back} to go on, or resume=false to start over"
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

    An option that is `auto` now is not compared here. An earlier release may have had another default for it, and the
    value that it stands for is compared with the run's checkpoint (`refuse_other_hardware`).

    Raises:
        UserError: names the options that differ and the two ways out.
    """
    now, before = result_keys(job.run), result_keys(begun)
    differ = sorted(key for key in now | before if now.get(key) not in ("auto", before.get(key)))
    if differ:
        values = ", ".join(f"{key} was {before.get(key)} and is now {now.get(key)}" for key in differ)
        ways_out = "give the old values to go on, or resume=false to start over"
        raise UserError(f"{job.dir} holds another run: {values}; {ways_out}")


def refuse_other_hardware(begun: Mapping[str, Any], now: SettledHardware) -> None:
    """Refuse to resume a run in another number format, or on another kind of device, than it was begun with.

    Args:
        begun: the hardware in the config of the run's checkpoint.

    Raises:
        UserError: names the options that differ and the two ways out.
    """
    keys = ("accelerator", *RESULT_HARDWARE)
    if differ := [key for key in keys if begun[key] != getattr(now, key)]:
        values = ", ".join(f"hardware.{key} was {begun[key]} and is now {getattr(now, key)}" for key in differ)
        raise UserError(f"{values}: give the old values to go on, or resume=false to start over")
