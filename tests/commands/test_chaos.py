"""Sweeps that are killed again and again, at random moments in random ways, end like undisturbed ones."""

import os
import random
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.helpers.commands import assert_gone, descendants, manifests, run, start

SWEEPS = {
    "sequential": ("-m", "depth=8,14", "arch=plain,resnet_v2", "hardware=cpu", "jobs=1"),
    "side by side": ("-m", "depth=8,14", "arch=plain,resnet_v2", "hardware=cpu", "jobs=2"),
    "on two ranks": ("-m", "depth=8,14", "arch=plain,resnet_v2", "hardware=ddp_2cpu"),
}
RUNS = ("data=digits", "schedule.steps=240", "hardware.checkpoint_minutes=0.005", "logger=csv")


def kill_somebody(process: subprocess.Popen[str], chance: random.Random) -> str:
    """Kill the sweep (politely or not), one of its processes, or all at once; return which."""
    family = [psutil.Process(process.pid), *descendants(process)]
    how = chance.choice(["stop", "one", "sweep", "all"])
    if how == "stop":
        process.send_signal(chance.choice([signal.SIGINT, signal.SIGTERM]))
    for victim in {"stop": [], "one": [chance.choice(family)], "sweep": family[:1], "all": family}[how]:
        with suppress(psutil.NoSuchProcess):  # may just have ended by itself
            victim.kill()
    return how


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", SWEEPS)
def test_a_sweep_killed_at_random_ends_with_undisturbed_weights(kind: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(2**31))
    print(f"CHAOS_SEED={seed}")
    chance = random.Random(seed)
    options = (*SWEEPS[kind], *RUNS)
    for folder in ("undisturbed", "killed"):
        (tmp_path / folder).mkdir()
    status, output = run("train.py", *options, home=tmp_path / "undisturbed")
    assert status == 0, output
    undisturbed = manifests(tmp_path / "undisturbed/outputs")
    assert len(undisturbed) == 4

    home, kills, rounds = tmp_path / "killed", [], 0
    while len(kills) < 8:
        process = start("train.py", *options, home=home)
        try:
            process.communicate(timeout=chance.uniform(2, 12))
        except subprocess.TimeoutExpired:
            children = descendants(process)
            kills.append(kill_somebody(process, chance))
            process.communicate(timeout=120)
            assert_gone(children)
        if len(manifests(home / "outputs")) == 4:  # all done: start over
            compare(home, tmp_path / "undisturbed")
            rounds += 1  # more than one may end without a kill between them
            (home / "outputs").rename(home / f"outputs-{rounds}")
    print(kills)
    status, output = run("train.py", *options, home=home)
    assert status == 0, output
    compare(home, tmp_path / "undisturbed")


def compare(home: Path, undisturbed: Path) -> None:
    """Assert the same runs, weights and curves, bit for bit."""
    expected = manifests(undisturbed / "outputs")
    ours = manifests(home / "outputs")
    assert {n: m["weights_sha256"] for n, m in ours.items()} == {n: m["weights_sha256"] for n, m in expected.items()}
    for name in expected:
        path = Path("outputs/digits") / name / "metrics.csv"
        assert (home / path).read_bytes() == (undisturbed / path).read_bytes()
