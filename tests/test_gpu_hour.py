"""The rehearsal of a GPU's first hour, on a CPU: every part and every side runs, and what fails is on record."""

import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, environment


def hour(into: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "benchmarks/gpu_hour.py", "--into", str(into), *options]
    result = subprocess.run(command, cwd=ROOT, env=environment(into), capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)  # every way of compiling, in processes of their own
def test_the_first_hour_on_a_gpu_is_rehearsed(tmp_path: Path) -> None:
    status, said = hour(tmp_path, "--device", "cpu", "--quick", "--minutes", "14")
    assert status == 0, said
    parts = json.loads((tmp_path / "RESULTS.json").read_text())["parts"]
    assert {name: part["state"] for name, part in parts.items()} == dict.fromkeys(
        ("tests", "steps", "several", "photographs", "cells"), "done"
    ), said
    rows = [row for part in parts.values() for row in part["rows"]]
    assert not [row for row in rows if row.get("failed")], said
    assert len({row["side"] for row in parts["steps"]["rows"]}) == 8
    assert [row["runs"] for row in parts["several"]["rows"]] == [1, 2, 2]
    assert len(parts["cells"]["rows"]) == 2
    table = (tmp_path / "RESULTS.md").read_text()
    assert "none: a rehearsal, whose figures say nothing about a GPU" in table
    assert "| resnet_v1-8 | 72 | yes | graph, compiled |" in table


@pytest.fixture
def gpu_hour(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_hour")


SIDES = """
import json, sys, time
for side in sys.argv[sys.argv.index("true") + 1:]:
    print(json.dumps({"begins": side}), flush=True)
    if side == "dies":
        sys.exit(7)
    if side == "hangs":
        time.sleep(100)
    print(json.dumps({"side": side, "images_per_s": 1.0}), flush=True)
"""


def test_a_side_that_dies_or_hangs_leaves_the_others_their_turn(
    gpu_hour: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides are measured by a stand-in for gpu_steps.py."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "gpu_steps.py").write_text(SIDES)
    monkeypatch.setattr(gpu_hour, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_hour, "MOST_S", 2)
    monkeypatch.setattr(gpu_hour, "GRACE_S", 2)
    monkeypatch.setattr(gpu_hour, "PASSES", [(True, ["first", "dies", "second", "hangs", "third"])])
    monkeypatch.setattr(gpu_hour, "NETS", {"resnet_v1-20": (1, 1)})
    asked = types.SimpleNamespace(into=tmp_path, device="cuda", quick=False, minutes=1.0, parts=["steps"])
    sheet = gpu_hour.Hour(asked)
    sheet.run_part("steps", gpu_hour.steps, 1.0)
    part = json.loads((tmp_path / "RESULTS.json").read_text())["parts"]["steps"]
    ends = {row["side"]: row.get("failed", "") for row in part["rows"]}
    assert ends == {
        "first": "",
        "dies": "its process ended with status 7",
        "second": "",
        "hangs": "took more than 2 s",
        "third": "",
    }
    assert part["state"] == "done"
    sheet.until = 0.0
    sheet.run_part("none left", gpu_hour.steps, 0.0)
    assert sheet.record["parts"]["none left"]["state"] == "out of time"


def test_parts_of_an_earlier_call_stay_with_what_they_were_measured_on(
    gpu_hour: types.ModuleType, tmp_path: Path
) -> None:
    asked = types.SimpleNamespace(into=tmp_path, device="cuda", quick=False, minutes=1.0, parts=["tests", "steps"])
    first = gpu_hour.Hour(asked)
    first.run_part("tests", lambda hour: iter([{"tests": "11"}]), 0.5)
    first.run_part("steps", lambda hour: iter([{"side": "eager"}]), 0.5)
    asked.parts = ["steps"]
    second = gpu_hour.Hour(asked)
    assert set(second.record["parts"]) == {"tests"}, "the steps are measured anew"
    assert second.record["parts"]["tests"]["rows"] == [{"tests": "11"}]
    assert second.record["parts"]["tests"]["about"] == first.record["about"]
    assert "By an earlier call, `python" in (tmp_path / "RESULTS.md").read_text()


def test_the_page_on_speed_shows_deterministic_steps_of_the_recipes_batch(gpu_hour: types.ModuleType) -> None:
    ways = [("graph", True, 128), ("eager", True, 128), ("eager", False, 128), ("eager", True, 256)]
    rows: list[dict[str, object]] = [
        {"net": "resnet_v1-20", "batch": batch, "deterministic": deterministic, "side": side, "images_per_s": speed}
        for speed, (side, deterministic, batch) in enumerate(ways, 1)
    ]
    rows.append(rows[0] | {"net": "resnet_v1-56"})
    rows.append({key: value for key, value in rows[1].items() if key != "images_per_s"} | {"net": "resnet_v1-56"})
    facts = {"gpu": "NVIDIA H100, 580.1, 81559 MiB", "machine": "Xeon with 16 cores", "python": "3.12.3"}
    facts |= {"commit": "3d303a0", "begun": "2026-11-27T03:50:27+00:00", "command": "python gpu_hour.py"}
    record = {"about": {**facts, "versions": {"torch": "2.11.0"}}, "parts": {"steps": {"rows": rows}}}
    shown = gpu_hour.shown(record)
    assert (shown.family, shown.date, shown.about["driver"]) == ("nvidia-h100", "2026-11-27", "580.1")
    ours, without = gpu_hour.figures.OURS, gpu_hour.figures.WITHOUT_GRAPHS
    assert shown.tables == {"gpu": {"resnet_v1-20": {ours: [1], without: [2]}, "resnet_v1-56": {ours: [1]}}}
    assert f"| {without} | 2.00 (0.50) | not measured |" in gpu_hour.figures.claims_and_tables([shown])


def test_without_a_gpu_the_hour_is_refused(tmp_path: Path) -> None:
    status, said = hour(tmp_path)
    assert status == 2
    assert "no CUDA device is visible; --device cpu --quick rehearses without one" in said
