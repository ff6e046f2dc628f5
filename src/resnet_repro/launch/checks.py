"""Refuse what a command cannot do, before anything starts; give each run its folder."""

import shutil
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from resnet_repro.data import cifar, photos, shards
from resnet_repro.data.options import InMemory, Photographs, Shards
from resnet_repro.errors import UserError
from resnet_repro.papers.rows import printed_error
from resnet_repro.runs import resume
from resnet_repro.runs.folder import InUse, RunDir, read_json, write_json
from resnet_repro.runs.groups import identity
from resnet_repro.runs.job import Job, result_keys
from resnet_repro.runs.options import Wandb
from resnet_repro.runs.wandb_account import in_wandb_sweep, is_logged_in


def check_services(jobs: list[Job]) -> None:
    """Check data folders, loggers and the W&B login. Unpack ImageNet, and download CIFAR if that is allowed.

    Raises:
        UserError: if data, a logger's package or the login is missing.
    """
    loggers = [job.run.logger for job in jobs]
    if any(asked.tensorboard for asked in loggers) and find_spec("tensorboard") is None:
        raise UserError("logger=tensorboard needs TensorBoard: pip install 'resnet_repro[tensorboard]'")
    if in_wandb_sweep() and len(jobs) > 1 and any(isinstance(asked, Wandb) for asked in loggers):
        raise UserError(
            f"`wandb agent` takes one run from a command, and this command has {len(jobs)}: give every option one value"
        )
    for asked in loggers:
        if isinstance(asked, Wandb) and asked.mode == "online" and not is_logged_in():
            raise UserError("logger.mode=online needs a W&B login: run `wandb login`, or leave logger.mode=auto")
    sources = [job.run.data for job in jobs]
    for root in sorted({data.root for data in sources if isinstance(data, Shards)}):
        shards.count(root)
    trees = (data for data in sources if isinstance(data, Photographs) and not isinstance(data, Shards))
    for folder in sorted({Path(data.root).expanduser() for data in trees}):
        photos.unpack(folder)
        photos.count(folder)
    official = {data for data in sources if isinstance(data, InMemory) and data.name in cifar.NAMES}
    for name, root, val_size, download in sorted({(d.name, d.root, d.val_size, d.download) for d in official}):
        if cifar.locate(name, Path(root), val_size=val_size, download=download).needs_download:
            cifar.download(name, Path(root))


def check_beginnings(jobs: list[Job], *, in_order: bool) -> None:
    """Check that the weights which runs begin with exist, or will exist by then.

    Args:
        in_order: whether this command makes a run before the runs that begin with its weights.

    Raises:
        UserError: if a run begins with the weights of a run that is not finished.
    """
    made = {job.dir for job in jobs if in_order}
    for job in jobs:
        other = job.waits_for
        if other is not None and other not in made and not RunDir(other).is_done:
            depths = f"depth={job.run.init_from},{job.run.depth} init_from=null,{job.run.init_from}"
            raise UserError(
                f"{job.name} begins with the weights of {other}, and that run is not finished: "
                + (f"make both with -m {depths}" if in_order else "make it first, init_from=null")
            )


def check_folders(jobs: list[Job]) -> None:
    """Check the folders of jobs, and touch nothing.

    Raises:
        UserError: if two different jobs share a folder, or a folder belongs to another run, to other code or to a
            process that still runs.
    """
    for number, job in enumerate(jobs):
        twin = next((other for other in jobs[:number] if other.dir == job.dir), None)
        if twin and result_keys(twin.run) != result_keys(job.run):
            raise UserError(f"two different jobs would share {job.dir}: run them with two outputs= folders")
        run = RunDir(job.dir)
        if job.run.resume:
            if run.job.exists():
                resume.refuse_other_options(job, Job.of_record(read_json(run.job), run.path).run)
            if run.checkpoint_files() and not run.is_done:
                resume.refuse_another(run, resume.code(job.run))  # the data's turn is when the job has read it
        elif run.path.exists():
            try:
                with run.owned():
                    pass
            except InUse as error:
                raise UserError(f"{error}; resume=false would take it away: wait for it or stop it") from None


def claim(job: Job, *, group: str, command: str) -> Job:
    """Give a job its folder and write job.json. A begun run keeps its sweep; a finished run keeps everything.

    Returns:
        The job as job.json now has it.
    """
    run = RunDir(job.dir)
    if run.path.exists() and not job.run.resume:
        aside = Path(job.run.outputs) / ".replaced" / time.strftime("%Y-%m-%d_%H-%M-%S") / job.dir.parent.name
        aside.mkdir(parents=True, exist_ok=True)
        shutil.move(run.path, aside)
    before = Job.of_record(read_json(run.job), run.path) if run.job.exists() else None
    if before and run.is_done:
        return before
    run.path.mkdir(parents=True, exist_ok=True)
    # Reports need these labels. They are computed here because no job imports the code of reports.
    claimed = replace(
        job,
        group=before.group if before else group,
        command=before.command if before else command,
        labels=identity(job.record),
        paper_error=printed_error(job.record),
    )
    write_json(run.job, claimed.record)
    return claimed
