"""The figures of speed: how they are measured, shown and held against the claims."""

import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import figures
from benchmarks.figures import BYTES, CLAIMS, COMPILED, FLOAT32, FLOOR, MULTIPLY_ADDS, OURS, Claim, Record
from benchmarks.processor import family
from benchmarks.roofline import cost
from benchmarks.sides import Side, in_turns
from docs.readme import BEGIN, END, SPEED, speed_page
from resnet_repro.networks.costs import multiply_adds
from resnet_repro.networks.resnet import ResNet
from tests.helpers.photo_files import SHARED

ROOT = Path(__file__).parents[1]
RECORDED = Record(
    family="intel-xeon-sapphirerapids-amx_bf16",
    cpu="Intel Xeon",
    date="2026-11-25",
    command="python benchmarks/speed.py",
    about={"cores": "2"},
    tables={
        "train": {
            "resnet_v1-20": {OURS: [990.0, 1000.0], FLOAT32: [244.0, 250.0], COMPILED: [800.0]},
            "resnet_v1-56": {OURS: [300.0]},
        },
        "start": {"s": {figures.FIRST_STEP: [7.0, 6.5]}},
        "cost": {"resnet_v1-20": {MULTIPLY_ADDS: [122.0], BYTES: [2.0]}},
        "rate": {"one thread": {MULTIPLY_ADDS: [400.0, 488.0], BYTES: [8.0]}},
    },
    missing={"decode": "no photographs"},
)


def test_a_record_is_shown_with_ratios_rounds_and_its_floor() -> None:
    page = figures.results_page([RECORDED])
    for row in (
        "| | resnet_v1-20 | resnet_v1-56 |",
        f"| {OURS} | **1,000** [990, 1,000] | **300** |",
        f"| {FLOAT32} | 250 (4.00) [244, 250] | not measured |",
        f"| {FLOOR} | 2,000 (0.50) | not measured |",  # 122 million / 488 billion + 2 million / 8 billion = 0.5 ms
        f"| {figures.FIRST_STEP} | 6.50 [7.00, 6.50] |",  # of seconds the least is the best
        "- decode: no photographs",
    ):
        assert f"\n{row}\n" in page


def test_parts_that_are_measured_anew_replace_those_of_a_record_and_say_when() -> None:
    tables = {"start": {"s": {figures.FIRST_STEP: [3.5]}}, "decode": {"best round": {"ours": [700.0]}}}
    newer = replace(RECORDED, date="2026-12-24", about={"commit": "0123abcd", "cores": "2"}, tables=tables, missing={})
    renewed = RECORDED.renewed(newer, ["start", "decode"])
    assert renewed.tables == RECORDED.tables | tables
    assert (renewed.date, renewed.missing) == (RECORDED.date, {})
    assert "; start, decode of 2026-12-24, commit 0123abcd." in figures.results_page([renewed])
    failed = replace(newer, tables={}, missing={"start": "no CIFAR-10"})
    assert RECORDED.renewed(failed, ["start"]) == RECORDED, "what was not measured stays"


def test_claims_that_figures_do_not_bear_out_are_named() -> None:
    against = "With AMX, ResNet v1-20 trains at least 1.35 times as fast as the compiled loop. Measured: 1.25."
    slow_start = "The first step of ResNet v1-20 on CIFAR-10 ends at most 6 s after the command. Measured: 6.5."
    assert figures.not_borne_out(RECORDED) == [against, slow_start]
    assert f"\n- {against}\n- {slow_start}\n" in figures.results_page([RECORDED])
    section = figures.claims_and_tables([RECORDED])
    assert "compiled loop. (**Not borne out** by intel-xeon-sapphirerapids-amx_bf16: 1.25.)" in section
    _, targets = section.split("\nTargets that nobody has measured yet:\n\n")
    assert "- With AMX, ResNet v1-56 trains at least 1.25 times as fast as the compiled loop.\n" in targets
    assert figures.not_borne_out(replace(RECORDED, family="amd", tables={})) == []


def test_a_claim_is_of_the_processors_that_it_names() -> None:
    claim = Claim("", "train", "resnet_v1-20", OURS, (COMPILED,), on=("avx512_bf16",))
    assert claim.value(RECORDED) is None
    assert claim.value(replace(RECORDED, family="amd-epyc-zen4-avx512_bf16")) == 1.25


def test_the_pages_of_speed_are_those_of_the_records() -> None:
    every = figures.records()
    assert figures.RESULTS.read_text(encoding="utf-8") == figures.results_page(every), "run `make readme`"
    page = SPEED.read_text(encoding="utf-8")
    assert speed_page(page, every) == page, "run `make readme`"


def test_every_sentence_on_speed_with_a_number_is_a_claim() -> None:
    by_hand, generated = SPEED.read_text(encoding="utf-8").split(BEGIN)
    generated, after = generated.split(END)
    names = r"bf16|float32|CIFAR-10|ResNet-50"
    assert re.findall(r"\d", re.sub(names, "", by_hand + after)) == []
    sentences = [line[2:] for line in generated.split("\n## ")[0].splitlines() if line.startswith("- ")]
    claims = [claim.text for claim in CLAIMS]
    assert sorted((re.sub(r" \(.*\)$", "", line) for line in sentences), key=claims.index) == claims


def test_the_cost_of_a_network_is_counted_on_it() -> None:
    found = cost(partial(ResNet, depth=20, family="cifar", num_classes=10), (3, 32, 32), torch.bfloat16)
    num_outputs = 7 * 16 * 32**2 + 6 * 32 * 16**2 + 6 * 64 * 8**2
    assert found.num_bytes == 6 * 2 * num_outputs
    assert found.multiply_adds == 3 * multiply_adds(20, family="cifar", image_size=32, num_classes=10)


@pytest.mark.parametrize(
    ("vendor", "number", "model", "name", "flags", "expected"),
    [
        ("AuthenticAMD", 25, 17, "AMD EPYC", "avx2 avx512f avx512_bf16", "amd-epyc-zen4-avx512_bf16"),
        ("AuthenticAMD", 25, 33, "AMD Ryzen 9 5950X", "avx2", "amd-ryzen-zen3-avx2"),
        ("GenuineIntel", 6, 143, "Intel(R) Xeon(R)", "avx512_bf16 amx_bf16", "intel-xeon-sapphirerapids-amx_bf16"),
        ("GenuineIntel", 6, 999, "Intel(R) Xeon(R)", "avx512f", "intel-xeon-model999-avx512f"),
    ],
)
def test_a_family_names_the_kind_of_processor(
    vendor: str, number: int, model: int, name: str, flags: str, expected: str
) -> None:
    facts = {"vendor_id": vendor, "cpu family": str(number), "model": str(model), "model name": name, "flags": flags}
    assert family(facts) == expected


STEPS = """
import itertools, pathlib, sys, time
with pathlib.Path(sys.argv[1], "timing.csv").open("w", buffering=1) as file:
    print("step,time/images_per_s", file=file)
    for step in itertools.count(1):
        time.sleep(0.02)
        print(f"{step},{sys.argv[2]}", file=file)
"""


def started(folder: Path, code: str = STEPS, rate: str = "100") -> Side:
    return Side([sys.executable, "-c", code, str(folder), rate], folder, {})


def test_a_side_computes_in_its_turn_only(tmp_path: Path) -> None:
    with started(tmp_path / "side") as side:
        while not side.is_warm():
            time.sleep(0.02)
        side.suspend()
        time.sleep(0.1)
        (before,) = side.rates()
        time.sleep(0.3)
        assert side.rates() == [before]
        assert side.turn(0.3) == 100
        (after,) = side.rates()
        assert len(after) > len(before) + 2
    assert not psutil.pid_exists(side.process.pid)


def test_a_side_that_fails_leaves_the_others_their_turns() -> None:
    dies = partial(started, code="raise SystemExit('no bf16 here')")
    turns = in_turns({"fast": partial(started, rate="200"), "dies": dies, "slow": started}, seconds=0, turn=0.1)
    assert turns.rates == {"fast": [200], "slow": [100]}
    assert turns.missing == {"dies": "ended: no bf16 here"}


@pytest.mark.slow
@pytest.mark.timeout(900)  # a machine with other work to do
def test_the_whole_benchmark_can_be_rehearsed(cifar10_root: Path) -> None:
    options = ["--quick", "--cifar", str(cifar10_root), "--photos", str(SHARED / "imagenet_photos")]
    command = [sys.executable, str(ROOT / "benchmarks" / "speed.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr
    assert "Not measured" not in done.stdout
    missing = {name for name, table in figures.TABLES.items() if table.title not in done.stdout}
    assert missing == {"gpu", "several"}  # benchmarks/gpu_hour.py measures those tables


@pytest.mark.slow
def test_parts_without_their_data_are_left_out_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-bin").mkdir()
    options = ["--quick", "--cifar", str(tmp_path), "--photos", str(tmp_path), "--parts", "train", "decode"]
    command = [sys.executable, str(ROOT / "benchmarks" / "speed.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(?m)^(\w+) is left out: .+$", done.stderr) == ["train", "decode"]
