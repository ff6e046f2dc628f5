"""The registry of published numbers against the facts it was built from, and its way to our cells."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from resnet_repro import paper
from resnet_repro.config import make_job
from resnet_repro.paper import published, registry
from resnet_repro.results import arch_label, group, read
from tests.synthetic_runs import write_run
from tests.test_config import composed

FACTS = Path(__file__).parents[2] / "shared" / "paper" / "published_numbers.yaml"


def number(*, data: str = "cifar10", arch: str = "resnet_v1", depth: int = 110, batch_size: int = 128) -> str:
    return str(published(data=data, arch=arch, depth=depth, batch_size=batch_size))


def test_resnet_rows_of_v1_table_6_are_as_printed() -> None:
    printed = {20: "8.75", 32: "7.51", 44: "7.17", 56: "6.97", 110: "6.43 (6.61 ± 0.16)", 1202: "7.93"}
    assert {depth: number(depth=depth) for depth in printed} == printed


def test_preactivation_rows_of_v2_are_as_printed() -> None:
    assert number(arch="resnet_v2") == "6.37"
    assert number(arch="resnet_v2", depth=164) == "5.46"
    assert number(arch="resnet_v2", depth=1001) == "4.92 (4.89 ± 0.14)"
    assert number(arch="resnet_v2", depth=1001, batch_size=64) == "4.62 (4.69 ± 0.20)"
    assert number(arch="resnet_v2", depth=1001, data="cifar100") == "22.71 (22.68 ± 0.22)"


def test_plain_110_is_printed_as_over_60_percent() -> None:
    row = published(data="cifar10", arch="plain", depth=110)
    assert row is not None
    assert (str(row), row.number, row.source) == ("over 60", None, "v1 Fig. 6")


def test_every_ablation_row_is_reached_from_a_config() -> None:
    """The report's names in paper.yaml are those that the configs get: none is out of reach by a typing error."""
    changes: list[dict[str, Any]] = [
        {},
        {"shortcut": "C"},
        {"shortcut": "dropout"},
        {"unit": "one_layer"},
    ]
    changes += [{"mix": mix} for mix in ("half_shortcut", "half_both", "exclusive_gate", "shortcut_gate")]
    changes += [{"mix": "exclusive_gate", "gate_bias": float(b)} for b in (0, -1, -2, -3, -4, -5, -7)]
    changes += [{"mix": "shortcut_gate", "gate_bias": 0.0}]
    orders = ("original", "bn_after_add", "relu_before_add", "relu_only_preact", "full_preact")
    changes += [{"order": order} for order in orders]
    names = set()
    for arch in ("plain", "resnet_v1", "resnet_v2"):
        usual = composed(f"arch={arch}", "data=cifar10")
        for depth, change in itertools.product((20, 110, 164), changes):
            if arch == "plain" and "mix" in change:
                continue
            job = make_job(usual | {"depth": depth, "arch": usual["arch"] | change}, usual=usual)
            names.add(arch_label({"config": job.config, "departures": job.departures}))
    assert {name for row in registry() for name in row.arch} <= names


def test_digits_and_unknown_cells_have_no_published_number() -> None:
    assert published(data="digits", arch="resnet_v1", depth=20) is None
    assert published(data="cifar10", arch="resnet_v1 B", depth=20) is None
    assert published(data="cifar10", arch="resnet_v1", depth=20, batch_size=64) is None


def test_a_shortened_run_is_called_not_comparable(tmp_path: Path) -> None:
    write_run(tmp_path, data__name="cifar10", schedule__steps=400, name="short")
    write_run(tmp_path, data__name="cifar10", data__val_size=5000, name="split")
    write_run(tmp_path, data__name="cifar10", name="full")
    write_run(tmp_path, schedule__steps=10, name="digits")
    said = {protocol.runs[0].directory.name: paper.departures(protocol) for protocol in group(read(tmp_path)[0])}
    assert said == {
        "short": "400 of 64,000 steps: not comparable",
        "split": "5,000 training images held out: not comparable",
        "full": "",
        "digits": "",
    }


@pytest.mark.skipif(not FACTS.exists(), reason="the folder shared is not beside this checkout")
def test_registry_holds_every_cifar_number_of_the_transcription() -> None:
    facts = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    tables = {
        ("v1 Table 6", "cifar10"): facts["v1"]["table6_cifar10_test"],
        ("v2 Table 1", "cifar10"): facts["v2"]["table1_resnet110_shortcut_cifar10"],
        ("v2 Table 2", "cifar10"): facts["v2"]["table2_activation_cifar10"],
        ("v2 Table 3", "cifar10"): facts["v2"]["table3"]["cifar10"],
        ("v2 Table 3", "cifar100"): facts["v2"]["table3"]["cifar100"],
        ("v2 Table 4", "cifar10"): facts["v2"]["table4_cifar10_others"],
        ("v2 Table 4", "cifar100"): facts["v2"]["table4_cifar100_others"],
    }
    for (source, data), table in tables.items():
        wanted = [cell for value in table.values() for cell in (value if isinstance(value, list) else [value])]
        rows = [row for row in registry() if (row.source, row.data) == (source, data)]
        ours = [(row.error or "fail", row.mean, row.std, row.params_m) for row in rows]
        theirs = [
            (cell["error"], cell.get("mean"), cell.get("std"), cell.get("params_m"))
            if isinstance(cell, dict)
            else (cell, None, None, None)
            for cell in wanted
        ]
        assert sorted(map(str, ours)) == sorted(map(str, theirs)), (source, data)
