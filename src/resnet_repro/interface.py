"""The commands for notebooks and scripts: `train` and `load_run`, which give finished runs as values."""

import json
import math
import os
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from resnet_repro import cli
from resnet_repro.conf_dir import command
from resnet_repro.errors import NotDone, UserError
from resnet_repro.launch.exit_status import STOPPED
from resnet_repro.runs import finished
from resnet_repro.runs.finished import FinishedRun, layer_table
from resnet_repro.runs.folder import RunDir

if TYPE_CHECKING:
    from torch import nn

    from resnet_repro.launch.sweep import Result


class TrainedRun(FinishedRun):
    """A finished run: its `options`, its `errors` and curves, its layers, and the network with the trained weights."""

    @property
    def errors(self) -> dict[str, float]:
        """The errors in % after the last step, for `train`, `test`, and `val` if images are held out.

        The training error is over the last epoch's steps, and nan if the run has diverged.
        """
        errors = {split: self.results.get(f"{split}/error", math.inf) for split in finished.SPLITS}
        return {split: math.nan if error is None else error for split, error in errors.items() if error != math.inf}

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Return the steps at which a number was measured, and its values.

        Args:
            name: a column of metrics.csv: `train/loss`, `train/error`, `test/loss`, `test/error`, `lr` ...; errors are
                in %.

        Raises:
            UserError: if the run has no such curve.
        """
        if name not in self.curves:
            names = ", ".join(name for name in self.curves if name != "step")
            raise UserError(f"{self.label} has no curve {name}; use one of {names}")
        pairs = zip(self.curves["step"], self.curves[name], strict=True)
        measured = [(int(step), value) for step, value in pairs if not math.isnan(value)]
        return [step for step, _ in measured], [value for _, value in measured]

    @property
    def gradients(self) -> dict[str, list[float]]:
        """The columns `step`, `layer`, `norm` (of its gradient) and `weight_norm`, of five steps and each layer."""
        return layer_table(self, "gradients.csv")

    @property
    def responses(self) -> dict[str, list[float]]:
        """The columns `layer` and `std`, the standard deviation of the layer's response. [v1 Fig. 7]"""
        return layer_table(self, "responses.csv")

    @cached_property
    def network(self) -> "nn.Module":
        """The network with the weights of the last step, in evaluation mode; it takes images as training saw them.

        Raises:
            UserError: if the weights are gone.
        """
        from resnet_repro.training.checkpoints import trained

        return trained(RunDir(self.directory)).eval()


def train(*options: str) -> list[TrainedRun]:
    """Train as the command does, and return its runs: `train("depth=20,56", "arch=plain,resnet_v2", "data=digits")`.

    The runs train in processes of their own. Finished runs are not trained again, and begun runs go on. What the
    command prints is printed here.

    Args:
        options: those of `python train.py`, each a text of its own.

    Returns:
        A run for each job of the command, in the command's order; none after `plan=true` or `summary=true`.

    Raises:
        UserError: if an option is wrong. Nothing was run.
        NotDone: if a run failed; the others are finished.
        KeyboardInterrupt: after a Ctrl-C. Each run has saved its state, and the same call goes on with the runs.
    """
    with TemporaryDirectory(prefix="resnet_repro-") as folder:
        ends, complaints = Path(folder) / "ends.json", Path(folder) / "stderr"
        child = [sys.executable, "-m", __name__, str(ends), *options]
        # Jupyter asks programs for colours, and so for bars that move; here go plain lines
        env = os.environ | cli.search_path() | {"FORCE_COLOR": ""}
        with (
            complaints.open("w") as stderr,
            subprocess.Popen(child, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    print(line, end="", flush=True)
            except KeyboardInterrupt:  # the child has got it, too, and saves its runs
                print(process.stdout.read(), end="")
                raise
        said = complaints.read_text(encoding="utf-8", errors="replace").strip()
        if process.returncode == STOPPED:
            raise KeyboardInterrupt
        if not ends.exists():
            kind = UserError if process.returncode == 2 else NotDone
            raise kind(said.removeprefix("error: ") or f"{command('train')} ended with status {process.returncode}")
        if said:
            print(said, file=sys.stderr)
        outcomes: list[tuple[str, str]] = json.loads(ends.read_text())
    if reasons := [f"{path}: {reason}" for path, reason in outcomes if reason]:
        raise NotDone("; ".join(reasons))
    return [load_run(path) for path, _ in outcomes]


def load_run(folder: str | Path) -> TrainedRun:
    """Return a finished run: `load_run("outputs/digits/plain-20-s0")`.

    Raises:
        UserError: if the folder holds no finished run, or its files are damaged.
    """
    try:
        run = finished.load(Path(folder))
    except finished.DAMAGED as error:
        raise UserError(f"{folder} is damaged ({type(error).__name__}: {error}); make the run again") from None
    if run is None:
        raise UserError(f"{folder} holds no finished run: {command('train')} makes one")
    return TrainedRun(run.directory, run.manifest, run.curves, run.evaluations, run.has_weights)


def _main() -> None:
    """Be the process that `train` starts: write the folder of each job, and why it is not done, into a file."""
    ends = Path(sys.argv.pop(1))

    def write(results: list["Result"]) -> None:
        outcomes = {job.dir: outcome for result in results for job, outcome in result.outcomes.items()}
        reasons = {
            str(path): "" if outcome.state == "done" else outcome.reason or outcome.state
            for path, outcome in outcomes.items()
        }
        ends.write_text(json.dumps(list(reasons.items())))

    cli.train(write)


if __name__ == "__main__":
    sys.argv[:1] = ["resnet-repro train"]
    _main()
