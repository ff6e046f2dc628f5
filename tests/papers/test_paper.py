"""The papers' rows have the printed numbers, and each builds the network that it names."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from resnet_repro.errors import UserError
from resnet_repro.networks.costs import multiply_adds
from resnet_repro.networks.resnet import ResNet
from resnet_repro.papers.rows import (
    Published,
    conditions,
    deviations,
    printed_error,
    published,
    registry,
    rows_of,
    tables,
)
from resnet_repro.runs.folder import read_json
from resnet_repro.runs.options import Run
from resnet_repro.training.classifier import LitClassifier
from tests.helpers.runs import CONF, resolved
from tests.helpers.synthetic_runs import config, write_run

FACTS = Path(__file__).parents[3] / "shared" / "paper" / "published_numbers.yaml"
RUNNABLE = [row for row in registry() if not row.why]
# One row of each cell, as several rows name the same network: one with printed parameters if there is one.
CELLS = {row.cell: row for row in sorted(RUNNABLE, key=lambda row: row.params_m is not None)}
SMALL = ("data.crop=64",)  # pixels of ImageNet's images that train here


@cache
def run_of(row: Published) -> Run:
    return resolved(*row.overrides, *(SMALL if row.options["data"] == "imagenet" else ()))


def is_long(row: Published) -> bool:
    return bool(row.options["depth"] > (50 if row.options["data"] == "imagenet" else 200))


def name_of(row: Published) -> str:
    return f"{row.source}, {row.printed}"


def words_of(printed: str) -> dict[str, Any]:
    """Return the network that a row's printed name tells a reader, in our words."""
    name = printed.lower()
    orders = {"bn after": "bn_after_add", "relu before": "relu_before_add", "relu-only": "relu_only_preact"}
    order = next((word for key, word in orders.items() if key in name), "original")
    if order == "original" and ("pre-activation" in name or "proposed" in name):
        order = "full_preact"
    mixes = {"f 0.5": "half_both", "shortcut 0.5, f 1": "half_shortcut", "exclusive": "exclusive_gate"}
    mixes |= {"shortcut-only": "shortcut_gate"}
    return {"order": order, "mix": next((word for key, word in mixes.items() if key in name), "add")}


# Every table and figure of both papers and the result that only v2's text prints; False for a drawing.
SOURCES = {f"v1 Table {n}": True for n in range(1, 15)} | {f"v1 Fig. {n}": n not in (2, 3, 5) for n in range(1, 8)}
SOURCES |= {f"v2 Table {n}": True for n in range(1, 6)} | {f"v2 Fig. {n}": n not in (2, 4, 5) for n in range(1, 7)}
SOURCES |= {"v2 Sec. 5": True}


def test_every_table_and_figure_that_is_no_drawing_has_rows() -> None:
    assert sorted(tables()) == sorted(source for source, has_results in SOURCES.items() if has_results)


def test_each_table_is_one_file_and_they_are_in_the_papers_order() -> None:
    contents = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "experiment").glob("*.yaml")}
    files = {name: content["source"] for name, content in contents.items() if "source" in content}
    assert files == {rows[0].experiment: source for source, rows in tables().items()}
    order = [*(f"v1 Table {n}" for n in range(1, 15)), *(f"v1 Fig. {n}" for n in (1, 4, 6, 7))]
    order += [*(f"v2 Table {n}" for n in range(1, 6)), "v2 Sec. 5", *(f"v2 Fig. {n}" for n in (1, 3, 6))]
    assert list(tables()) == order
    assert len(set(registry())) == len(registry())


TABLE = {"source": "v1 Table 6", "what": "x", "overrides": ["data=cifar10", "protocol=paper_v1", "arch=plain"]}


def test_a_row_inherits_from_its_part_and_its_table() -> None:
    shared = TABLE | {"runs": 5, "overrides": ["data=cifar10", "protocol=paper_v1"]}
    part = {"what": "of a part", "overrides": ["depth=20", "arch=plain"]}
    other = {"printed": "another's", "why": "not ours", "runs": 1}
    deep = {"printed": "deep", "overrides": ["depth=56"], "error": 7.0}
    ours, theirs = rows_of(shared | {"parts": [part | {"rows": [deep, other]}]}, "mine")
    assert (ours.what, ours.runs, ours.error) == ("of a part", 5, 7.0)
    assert ours.overrides == ("data=cifar10", "protocol=paper_v1", "depth=56", "arch=plain")
    assert (theirs.why, theirs.runs, theirs.overrides) == ("not ours", 1, ())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"source": None},
            "experiment=mine is no table of a paper: give it source, what, seeds, overrides and rows, as",
        ),
        ({"rows": []}, "experiment=mine is no table of a paper"),
        ({"source": "Table 6"}, "experiment=mine has source=Table 6; write it as v1 Table 6, v2 Sec. 5 or v2 Fig. 1"),
        ({"rows": [{"printed": "a", "eror": 7}]}, "experiment=mine, row a: eror is not a key; the keys are above, "),
        ({"rows": [{"error": 7}]}, "experiment=mine, row None: a row needs printed, its name in the paper"),
        (
            {"rows": [{"printed": "a"}]},
            "experiment=mine, row a: overrides lack depth=; give data, protocol, arch, depth, or why it cannot be run",
        ),
    ],
)
def test_a_table_with_a_mistake_is_refused_in_one_line(change: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        rows_of(TABLE | {"rows": [{"printed": "a", "overrides": ["depth=20"]}]} | change, "mine")
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_row_has_what_reproduces_it_or_says_why_nothing_does() -> None:
    for row in registry():
        assert row.why or row.overrides, row
        assert ("another paper" in row.why or "nothing here" in row.why) <= (not row.overrides), row


@pytest.mark.parametrize("row", CELLS.values(), ids=name_of)
def test_a_row_composes_to_the_cell_that_the_report_gives_it(row: Published) -> None:
    assert run_of(row).cell == row.cell


@pytest.mark.parametrize("row", [row for row in registry() if row.cell], ids=name_of)
def test_a_row_is_the_network_that_its_name_tells(row: Published) -> None:
    assert row.cell is not None
    depth = re.search(r"(?:ResNet|plain)-(\d+)|^(\d+)-layer", row.printed)
    assert row.cell.as_dict()["depth"] == (int(depth[1] or depth[2]) if depth else 110)
    assert row.cell.as_dict() | words_of(row.printed) == row.cell.as_dict()
    is_plain = row.printed.startswith("plain") or "shortcut 0, F 1" in row.printed
    assert (row.cell.as_dict()["shortcut"] == "none") == is_plain
    if "1layer" in row.printed:
        assert row.cell.as_dict()["unit"] == "one_layer"
    else:
        assert (row.cell.as_dict()["unit"] == "bottleneck") == (
            row.cell.as_dict()["depth"] in (50, 101, 152, 200, 164, 1001)
        )
    if option := re.search(r"ResNet-34 ([ABC])$", row.printed):
        assert row.cell.as_dict()["shortcut"] == option[1]
    if bias := re.search(r"(?:bias|here) (-?\d+)$", row.printed):
        assert row.cell.as_dict()["gate_bias"] == int(bias[1])
    assert ("1x1 conv" in row.printed) <= (row.cell.as_dict()["shortcut"] == "C")
    assert ("dropout" in row.printed) == (row.cell.as_dict()["shortcut"] == "dropout")
    if row.source.startswith("v2") and row.source != "v2 Table 4":
        is_facebooks = "scale and aspect augmentation" in row.printed
        assert row.cell.as_dict()["protocol"] == ("fb_resnet" if is_facebooks else "paper_v2")


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] if is_long(row) else [], id=name_of(row)) for row in CELLS.values()],
)
def test_every_row_builds_its_network_and_trains_a_step(row: Published) -> None:
    """The network has the named depth, and each parameter a finite gradient."""
    made = run_of(row)
    model = trained_a_step(made)
    layers = [m for n, m in model.net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    beside = [n for n, m in model.net.named_modules() if isinstance(m, nn.Conv2d) and ("shortcut" in n or "gate" in n)]
    assert len(layers) - len(beside) == made.depth


def trained_a_step(made: Run) -> LitClassifier:
    """Return the network after one step of its own recipe on two images."""
    torch.manual_seed(0)
    model = LitClassifier(made, splits=[])
    (optimizer,) = [model.configure_optimizers()]
    before = [p.detach().clone() for p in model.net.parameters()]
    images, labels = torch.randn(2, *made.data.image), torch.tensor([0, 1])
    loss = model.training_step([images, labels], 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.net.parameters())
    optimizer.step()
    assert any(not torch.equal(p, old) for p, old in zip(model.net.parameters(), before, strict=True))
    return model


@pytest.mark.parametrize("row", [row for row in RUNNABLE if row.params_m], ids=name_of)
def test_a_network_has_the_printed_parameters(row: Published) -> None:
    """v1 counts batch norm's parameters (ResNet-1202: 19.3 M without); v2 does not (ResNet-1001: 10.3 M with)."""
    assert row.params_m is not None
    made = run_of(row)
    words = tuple((key, getattr(made.network, key)) for key in ("order", "shortcut", "mix", "unit"))
    count, of_batch_norms = num_parameters(made.depth, made.data.num_classes, words)
    if made.protocol.name != "paper_v1":
        count -= of_batch_norms
    assert round(count / 1e6, 2 if row.params_m < 1 else 1) == row.params_m


@cache
def num_parameters(depth: int, num_classes: int, words: tuple[tuple[str, Any], ...]) -> tuple[int, int]:
    """Count all parameters of a network for CIFAR, and those of its batch norms, once for each network."""
    with torch.device("meta"):
        net = ResNet(depth=depth, family="cifar", num_classes=num_classes, **dict(words))
    of_batch_norms = (p.numel() for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    return sum(p.numel() for p in net.parameters()), sum(of_batch_norms)


@pytest.mark.parametrize("row", tables()["v1 Table 1"], ids=name_of)
def test_the_multiply_adds_of_v1_table_1_are_counted(row: Published) -> None:
    assert row.cell is not None
    assert row.multiply_adds_g is not None
    arguments = {
        "family": "imagenet",
        "image_size": 224,
        "num_classes": 1000,
        "shortcut": row.cell.as_dict()["shortcut"],
    }
    giga = multiply_adds(row.cell.as_dict()["depth"], **arguments) / 1e9
    assert abs(giga - row.multiply_adds_g) < 0.06  # rounded, but for ResNet-50: 3.856 is printed as 3.8


@pytest.mark.parametrize("row", [r for r in registry() if r.options.get("data") == "imagenet"], ids=name_of)
def test_a_row_on_imagenet_builds_its_network(row: Published) -> None:
    made = run_of(row)
    words = {key: getattr(made.network, key) for key in ("order", "shortcut", "mix", "unit", "stride_on")}
    with torch.device("meta"):
        net = ResNet(depth=made.depth, family="imagenet", num_classes=1000, **words)
    names = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sum("shortcut" not in name for name in names) == row.options["depth"]


def test_runs_match_rows_however_they_were_asked_for() -> None:
    full = published(resolved("arch=resnet_v1", "arch.order=full_preact", "depth=110", "protocol=paper_v2"))
    assert full is not None
    assert full.error == 6.37
    said_aloud = resolved("depth=20", "arch.shortcut=A", "arch.unit=basic", "arch.gate_bias=0")
    assert str(published(said_aloud)) == "8.75"
    mean = published(resolved("arch=resnet_v2", "depth=1001", "protocol=official_lua"))
    assert str(mean) == "4.62 (4.69 ± 0.20)"


def test_v1s_and_v2s_own_runs_of_the_same_network_are_two_cells() -> None:
    rows = {protocol: published(resolved("depth=110", f"protocol={protocol}")) for protocol in ("paper", "paper_v2")}
    assert [row.source for row in rows.values() if row] == ["v1 Table 6", "v2 Table 1"]


def test_v2s_and_facebooks_resnet_200_are_two_rows() -> None:
    words = ("data=imagenet", "arch=resnet_v2", "depth=200")
    recipes = {"paper_v2": 20.7, "fb_resnet": 20.1}  # [v2 Table 5]
    for protocol, error in recipes.items():
        row = published(resolved(*words, f"protocol={protocol}"), test="320")
        assert row is not None
        assert row.error == error
    assert published(resolved(*words, "data.augment=scale_aspect"), test="320") is None
    for option in ("data.augment=scale", "arch.stride_on=first"):
        assert published(resolved(*words, "protocol=fb_resnet", option), test="320") is None
    assert deviations({"departures": {"data.augment": "scale_aspect", "data.jitter": 0.0}}) == ["data.jitter=0.0"]


@pytest.mark.parametrize("override", ["data=digits", "arch.shortcut=B", "protocol=modern", "depth=26"])
def test_a_cell_that_is_in_neither_paper_has_no_number(override: str) -> None:
    assert published(resolved(override)) is None


def test_deviations_prevent_a_comparison_and_conditions_do_not() -> None:
    departures = {"schedule.steps": 400, "data.val_size": 5000, "schedule.lr": 0.2, "schedule.batch_size": 64}
    harmless = {
        "arch.mix": "half_both",
        "protocol": "paper_v2",
        "hardware.precision": "32-true",
        "schedule.log_every": 3,
    }
    manifest = {"departures": departures | harmless, "config": {"schedule": {"protocol_steps": 64_000}}}
    assert deviations(manifest) == [
        "400 of 64,000 steps",
        "5,000 training images held out",
        "schedule.lr=0.2",
        "schedule.batch_size=64",
    ]
    as_the_papers = Run.of_record(config("resnet_v1", 110, data__name="cifar10"))
    assert conditions(as_the_papers) == []
    one_gpu = as_the_papers.but(hardware=as_the_papers.hardware.but(devices=1, precision="bf16-mixed"))
    assert conditions(one_gpu) == ["bf16-mixed"]  # its 128 images are two groups of 64
    ungrouped = one_gpu.but(schedule=one_gpu.schedule.but(ghost_batch_size=None))
    assert conditions(ungrouped) == ["batch norm over 128 images, not 64", "bf16-mixed"]
    eight_gpus = as_the_papers.but(hardware=as_the_papers.hardware.but(devices=8))
    assert conditions(eight_gpus) == ["batch norm over 16 images, not 64"]


# The rows of each transcribed table: their source, a part of `what`, and a pattern of their names.
TRANSCRIBED = {
    "table1_flops_g": ("v1 Table 1", "", ""),
    "table2_top1_10crop": ("v1 Table 2", "", ""),
    "table3_10crop": ("v1 Table 3", "", ""),
    "table4_single_model": ("v1 Table 4", "", ""),
    "table5_ensembles_top5_test": ("v1 Table 5", "", ""),
    "table6_cifar10_test": ("v1 Table 6", "", ""),
    "table1_resnet110_shortcut_cifar10": ("v2 Table 1", "", ""),
    "table2_activation_cifar10, 0": ("v2 Table 2", "", "ResNet-110"),
    "table2_activation_cifar10, 1": ("v2 Table 2", "", "ResNet-164"),
    "table3, cifar10, 0": ("v2 Table 3", "CIFAR-10 ", "original$"),
    "table3, cifar10, 1": ("v2 Table 3", "CIFAR-10 ", "pre-activation$"),
    "table3, cifar100, 0": ("v2 Table 3", "CIFAR-100 ", "original$"),
    "table3, cifar100, 1": ("v2 Table 3", "CIFAR-100 ", "pre-activation$"),
    "table4_cifar10_others": ("v2 Table 4", "CIFAR-10 ", ""),
    "table4_cifar100_others": ("v2 Table 4", "CIFAR-100 ", ""),
    "table5_imagenet_val_1crop": ("v2 Table 5", "", ""),
    "text": ("v2 Sec. 5", "", "BN after addition"),
}
SINGLE = {
    "table1_flops_g": "multiply_adds_g",
    "table5_ensembles_top5_test": "top5",
}  # what a lone number is, but an error
NOT_PRINTED = {"resnet-50"}  # in the authors' README, and in neither paper
EXTRA = {
    ("v1 Fig. 6", "plain-110"): "a number in a sentence of the transcription",
    ("v2 Sec. 5", "ResNet-101, original"): "transcribed from the authors' README, as author_readme_1crop",
}
"""Rows whose number is in no transcribed table, and why."""
V1S = {("v2 Table 4", "ResNet-110"): ("mean", "std")}  # omitted by v2, taken from v1 Table 6
UNTRANSCRIBED = {"v2 Table 4": ("params_m",)}  # printed but not transcribed; compared with the networks above


def transcribed_tables(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the transcription's tables; a table with a column for each depth or unit becomes one for each column."""
    by_name = {}
    entries = [item for paper in ("v1", "v2") for item in facts[paper].items()]
    nested = [(f"{name}, {part}", rows) for name, table in entries if name == "table3" for part, rows in table.items()]
    for name, table in [item for item in entries if item[0] != "table3"] + nested:
        if name.startswith(("table2_activation", "table3,")):
            for column in (0, 1):
                by_name[f"{name}, {column}"] = {row: values[column] for row, values in table.items()}
        elif name not in ("plain_cifar10", "author_readme_1crop"):
            by_name[name] = {
                row: value for row, value in table.items() if value is not None
            }  # a name with a comma is two
    return by_name


def transcribed(value: Any, *, table: str) -> dict[str, float]:
    """Return a transcribed row by the names of the registry."""
    if isinstance(value, dict):
        return {key: number for key, number in value.items() if key != "runs"}
    if isinstance(value, list):
        return {key: number for key, number in zip(("error", "top5"), value, strict=True) if number is not None}
    return {"above": 20} if value == "fail" else {SINGLE.get(table, "error"): value}


def kept(row: Published) -> dict[str, float]:
    """Return the numbers of a row that its paper prints and the transcription holds."""
    left_out = V1S.get((row.source, row.printed), ()) + UNTRANSCRIBED.get(row.source, ())
    names = ("error", "above", "mean", "std", "top5", "params_m", "multiply_adds_g")
    numbers = {name: getattr(row, name) for name in names if name not in left_out}
    return {name: number for name, number in numbers.items() if number is not None}


def words(name: object) -> set[str]:
    """Return the words of a name: those of "preact-152 @320" are in "ResNet-152 pre-activation, tested at 320"."""
    return set(re.findall(r"[a-z]+|[\d.]+", str(name).lower().replace("preact", "pre-activation")))


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """Return a transcription of every number of both papers' tables, made independently of the registry."""
    if not FACTS.exists():
        pytest.skip("the folder shared is not beside this checkout")
    return dict(yaml.safe_load(FACTS.read_text(encoding="utf-8")))


def rows_transcribed(table: str) -> list[Published]:
    """Return the registry's rows of a transcribed table, one for each printed row."""
    source, what, pattern = TRANSCRIBED[table]
    rows = {row.printed.split(", here")[0]: row for row in tables()[source] if what in row.what}
    return [row for printed, row in rows.items() if re.search(pattern, printed)]


def test_every_transcribed_row_is_in_the_registry_in_its_order(facts: dict[str, Any]) -> None:
    by_name = transcribed_tables(facts)
    assert by_name.keys() == TRANSCRIBED.keys()
    for table, values in by_name.items():
        rows = rows_transcribed(table)
        assert [kept(row) for row in rows] == [transcribed(value, table=table) for value in values.values()], table
        for name, row in zip(values, rows, strict=True):
            assert words(name) - {"imagenet", "crop", "1", "224"} <= words(row.printed), (name, row)


def test_every_number_of_the_registry_is_transcribed_or_an_extra(facts: dict[str, Any]) -> None:
    there = {row for table in transcribed_tables(facts) for row in rows_transcribed(table)}
    there |= {row for row in registry() if ", here" in row.printed}
    others = {(row.source, row.printed) for row in registry() if kept(row) and row not in there}
    assert others == EXTRA.keys()


def test_transcribed_numbers_outside_tables_are_in_the_registry(facts: dict[str, Any]) -> None:
    v1, rows = facts["v1"], {(row.source, row.printed): row for row in registry()}
    said = re.search(r"plain-110 has over (\d+) %", v1["plain_cifar10"])
    assert said is not None
    assert kept(rows["v1 Fig. 6", "plain-110"]) == {"above": int(said[1])}
    readme = {name: value for name, value in v1["author_readme_1crop"].items() if name not in NOT_PRINTED}
    ours = [rows["v2 Sec. 5", "ResNet-101, original"], rows["v2 Table 5", "ResNet-152, tested at 224"]]
    assert [[row.error, row.top5] for row in ours] == list(readme.values())


def test_parts_of_v1s_number_that_v2_omits_are_v1s() -> None:
    rows = {(row.source, row.printed): row for row in registry()}
    ours, theirs = rows["v2 Table 4", "ResNet-110"], rows["v1 Table 6", "ResNet-110"]
    assert ours.error == ours.mean == theirs.mean
    assert (ours.std, ours.runs, ours.params_m) == (theirs.std, theirs.runs, theirs.params_m)
    assert str(ours) == "6.61 ± 0.16"


def test_v2s_own_rows_of_cifar_are_medians_of_five_runs() -> None:
    """[v2 Sec. 3.1, Table 4]"""
    rows = [row for row in RUNNABLE if row.source.startswith("v2 Table") and "CIFAR" in row.what]
    assert {(row.statistic, row.runs) for row in rows if row.options["protocol"] != "paper_v1"} == {("median", 5)}


def test_only_a_comparable_run_gets_the_printed_error(tmp_path: Path) -> None:
    manifests = [
        read_json(write_run(tmp_path, "resnet_v1", 110, name=name, **made) / "manifest.json")
        for name, made in {
            "full": {"data__name": "cifar10"},
            "short": {"data__name": "cifar10", "schedule__steps": 400},
            "digits": {},
        }.items()
    ]
    assert [printed_error(manifest) for manifest in manifests] == [6.61, None, None]
