"""One run on several processes: it trains as on one process, prints once, and ends on all ranks together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnet_repro.launch.exit_status import DONE
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.ranks import Rank
from resnet_repro.training.classifier import LitClassifier
from resnet_repro.training.run import run as train
from tests.helpers.commands import ROOT, assert_gone, descendants, environment, manifests, run, start, wait_for_step
from tests.helpers.ranks import FLOAT32, final_state, in_ranks
from tests.helpers.runs import in_memory, job_in, prepared, recorded


def train_with_frozen_batch_norm(path: Path, job: Job, rank: Rank) -> None:
    def forward(self: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False)

    nn.BatchNorm2d.forward = forward  # type: ignore[method-assign]
    train(path, job, rank)


def test_ranks_that_share_a_batch_train_as_one_process_does(tmp_path: Path) -> None:
    """Batch norm is frozen here, because its statistics depend on which images share a device."""
    options = (*FLOAT32, "depth=8", "arch=plain", "schedule.lr=0.01", "schedule.steps=20")
    states = {}
    for num_ranks in (1, 2, 4):
        path = prepared(tmp_path, *options, f"hardware.devices={num_ranks}")
        in_ranks(num_ranks, train_with_frozen_batch_norm, path)
        states[num_ranks] = final_state(path)
    begun = LitClassifier(job_in(path).run, splits=["test"])
    moved = (states[1]["net.stem.0.weight"] - begun.state_dict()["net.stem.0.weight"]).abs().max()
    for num_ranks in (2, 4):
        for name, value in states[1].items():
            torch.testing.assert_close(states[num_ranks][name], value, rtol=1e-4, atol=1e-5)
    assert moved > 1e-3  # weights that do not move would be equal in any case


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ddp")


SWEEP = ("-m", "depth=8,14,20", "arch=plain,resnet_v2", "data=digits", "schedule.steps=22", "hardware=ddp_2cpu")


@pytest.fixture(scope="module")
def swept(home: Path) -> tuple[str, Path]:
    """Return output and outputs/ of a sweep: six jobs of two ranks, one after the other, that leave no process."""
    process = start("train.py", *SWEEP, home=home)
    time.sleep(3)
    wait_for_step(home / "outputs", 1, num_runs=1)
    children = descendants(process)
    assert len(children) >= 4  # the fork server, a job, and two ranks
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert_gone(children)
    return output, home / "outputs"


@pytest.mark.slow
def test_a_sweep_on_two_ranks_makes_each_run_once(swept: tuple[str, Path]) -> None:
    output, outputs = swept
    assert output.startswith("6 jobs; 6 to run of 22 steps each, 1 at a time")
    assert len(manifests(outputs)) == 6
    assert len({manifest["weights_sha256"] for manifest in manifests(outputs).values()}) == 6
    assert len({manifest["group"] for manifest in manifests(outputs).values()}) == 1
    assert sorted(path.name for path in outputs.iterdir()) == [".sweeps", "digits", "wandb"]
    assert len(list((outputs / ".sweeps").iterdir())) == 1
    assert len(list((outputs / "wandb").glob("offline-run-*"))) == 6
    for path in outputs.glob("digits/*/metrics.csv"):
        steps = [int(row.split(",")[0]) for row in path.read_text().splitlines()[1:]]
        assert steps == list(range(1, 23))
        spans = [read_json(path.parent / "manifest.json")[key] for key in ("started", "finished")]
        assert spans == sorted(spans)


@pytest.mark.slow
def test_evaluation_on_ranks_counts_every_image_once(swept: tuple[str, Path]) -> None:
    """The errors of the run equal those of its checkpoint, computed in one process."""
    path = swept[1] / "digits" / "plain-8-s0__steps=22__devices=2"
    manifest = read_json(path / "manifest.json")
    assert manifest["results"]["num_test_images"] % 2 == 1  # an odd number: equal shares would miss or repeat an image
    options = recorded(path)
    model = LitClassifier(options, splits=["test"])
    model.load_state_dict(final_state(path))
    model.net.to(memory_format=torch.channels_last)
    data = in_memory(options)
    test = data.evaluated["test"]
    images = torch.from_numpy(test.x) / 255 - data.normalisation.mean
    with torch.no_grad(), torch.autocast("cpu", enabled=options.hardware.precision == "bf16-mixed"):
        logits = model.eval()(images)
    wrong = int((logits.argmax(1) != torch.from_numpy(test.y)).sum())
    assert manifest["results"]["test/error"] == pytest.approx(100 * wrong / len(test.y), abs=1e-12)


DROPOUT = ("depth=8", "arch=resnet_v1", "arch.shortcut=dropout", "data=digits", "logger=csv", "schedule.steps=400")


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])  # the sum of more than two gradients depends on their order
def test_a_killed_run_on_ranks_resumes_bitwise(num_ranks: int, tmp_path: Path) -> None:
    options = (*DROPOUT, "hardware=cpu", f"hardware.devices={num_ranks}", "hardware.checkpoint_minutes=0.005")
    for folder in ("undisturbed", "killed"):
        (tmp_path / folder).mkdir()
    status, output = run("train.py", *options, home=tmp_path / "undisturbed")
    assert status == 0, output
    process = start("train.py", *options, home=tmp_path / "killed")
    wait_for_step(tmp_path / "killed/outputs", 150, num_runs=1)
    children = descendants(process)
    for victim in [process, *children]:
        os.kill(victim.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert_gone(children)
    status, output = run("train.py", *options, home=tmp_path / "killed")
    assert status == 0, output
    assert "started again from step" in output
    (before,), (after,) = (manifests(tmp_path / f / "outputs").values() for f in ("undisturbed", "killed"))
    assert after["weights_sha256"] == before["weights_sha256"]
    curves = [next((tmp_path / f).glob("outputs/*/*/metrics.csv")).read_bytes() for f in ("undisturbed", "killed")]
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_ranks_end_together_if_another_sweep_makes_their_run(swept: tuple[str, Path]) -> None:
    """Only rank 0 waits for the folder. The other ranks have begun before the run turns out to be done."""
    folder = RunDir(swept[1] / "digits" / "plain-14-s0__steps=22__devices=2")
    manifest = folder.manifest.read_bytes()
    folder.manifest.unlink()
    code = "import sys; from pathlib import Path; from resnet_repro.launch.worker import work; work(Path(sys.argv[1]))"
    try:
        with folder.owned():
            job = subprocess.Popen([sys.executable, "-c", code, str(folder.path)])
            time.sleep(4)
            folder.manifest.write_bytes(manifest)
        assert job.wait(60) == DONE
    finally:
        folder.manifest.write_bytes(manifest)


@pytest.mark.slow
def test_ranks_with_different_options_refuse_to_train(tmp_path: Path) -> None:
    """Each rank is started with torchrun's variables and a seed of its own."""
    shared = {"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533"}
    options = ("depth=8", "data=digits", "schedule.steps=20", "hardware=ddp_2cpu", "logger=csv")
    ranks = [
        start(
            "train.py", *options, f"seed={rank}", home=tmp_path, variables=shared | {"RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in ("0", "1")
    ]
    for process in ranks:
        output, _ = process.communicate(timeout=90)
        assert process.returncode == 1, output
        assert "the ranks of one run must agree: seed is 0 on rank 0 and 1 on rank 1" in output
    assert not manifests(tmp_path / "outputs")


@pytest.mark.slow
def test_torchrun_trains_the_run_that_a_sweep_trains(swept: tuple[str, Path], tmp_path: Path) -> None:
    options = ("depth=8", "arch=plain", "data=digits", "schedule.steps=22", "hardware=ddp_2cpu", "logger=csv")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = environment(tmp_path) | {"OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(ROOT / "train.py"), *options]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("Error in % after the last step") == 1
    (manifest,) = manifests(tmp_path / "outputs").values()
    assert manifest["weights_sha256"] == manifests(swept[1])[manifest["name"]]["weights_sha256"]


@pytest.mark.slow
def test_two_nodes_train_the_run_that_one_trains(swept: tuple[str, Path], tmp_path: Path) -> None:
    """Two agents of torchrun with a rank each stand for two machines."""
    options = ("depth=8", "arch=plain", "data=digits", "schedule.steps=22", "hardware=cpu", "logger=csv")
    nodes = []
    for node in range(2):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}"]
        meeting = ["--nproc-per-node=1", "--master-addr=127.0.0.1", "--master-port=29544"]
        command = [*torchrun, *meeting, str(ROOT / "train.py"), *options, "hardware.num_nodes=2"]
        nodes.append(subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path) | {"OMP_NUM_THREADS": "1"}))
    assert [node.wait(120) for node in nodes] == [0, 0]
    (manifest,) = manifests(tmp_path / "outputs").values()
    assert manifest["weights_sha256"] == manifests(swept[1])["plain-8-s0__steps=22__devices=2"]["weights_sha256"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("hardware=ddp_2cpu", "schedule.batch_size=127"), "schedule.batch_size=127 does not divide by 2 devices"),
        (("hardware=cpu", "hardware.num_nodes=2"), "needs hardware=slurm_... or torchrun on every node"),
        (("hardware.devices=0",), "hardware.devices=0 is not a whole number of devices"),
    ],
)
def test_impossible_devices_are_refused_in_one_line(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    status, output = run("train.py", "data=digits", *options, home=tmp_path)
    assert status == 2
    assert said in output
    assert output.count("\n") == 1
