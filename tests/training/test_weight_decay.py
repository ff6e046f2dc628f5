"""Weight decay acts on the protocol's parameters, and runs from before that choice are told apart."""

import json
from pathlib import Path

import pytest
import torch

from resnet_repro.networks.resnet import ResNet
from resnet_repro.papers.rows import deviations
from resnet_repro.runs import finished, groups
from resnet_repro.runs.job import resolve
from resnet_repro.training.classifier import LitClassifier, parameter_groups
from tests.helpers.runs import composed
from tests.helpers.synthetic_runs import write_run


def shrunk(config_options: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Return the names of parameters that an update with zero gradients shrinks, and of those that stay the same."""
    config = resolve(composed("data=digits", "depth=8", *config_options))
    model = LitClassifier(config, splits=["test"])
    for parameter in model.net.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizer = model.configure_optimizers()
    optimizer.step()
    after = {name: float(p.detach().flatten()[0]) for name, p in model.net.named_parameters()}
    decayed = {name for name, value in after.items() if 1 - 1e-4 < value < 1}  # Nesterov: 1.9 times as much
    others = {name for name, value in after.items() if value == 1}
    assert decayed | others == set(after)
    return decayed, others


def test_the_papers_decay_only_convolutional_and_linear_weights() -> None:
    decayed, others = shrunk(("arch.mix=exclusive_gate",))
    net = ResNet(depth=8, family="cifar", num_classes=10, in_channels=1, mix="exclusive_gate")
    weights = {f"{n}.weight" for n, m in net.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    assert decayed == weights
    assert "stages.0.0.gate.bias" in others


@pytest.mark.parametrize("protocol", ["official_lua", "modern"])
def test_torch_recipes_decay_every_parameter(protocol: str) -> None:
    assert shrunk((f"protocol={protocol}",))[1] == set()


def test_every_parameter_is_in_one_group() -> None:
    net = ResNet(depth=20, family="cifar", num_classes=10, shortcut="B")
    for decay in ("weights", "all"):
        grouped = [id(p) for group in parameter_groups(net, decay=decay) for p in group["params"]]
        assert sorted(grouped) == sorted(map(id, net.parameters()))


def as_recorded_before(folder: Path) -> None:
    """Rewrite a manifest as it was before the options `decay` and `ghost_batch_size` existed."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in ("decay", "ghost_batch_size"):
        del manifest["config"]["schedule"][key]
    path.write_text(json.dumps(manifest))


def test_an_older_manifest_is_not_mixed_with_new_runs(tmp_path: Path) -> None:
    as_recorded_before(write_run(tmp_path, "plain", 20, seed=0))
    write_run(tmp_path, "plain", 20, seed=1)
    runs, unfinished = finished.read(tmp_path)
    assert not unfinished
    old, new = sorted(runs, key=lambda run: run.seed)
    assert (old.options.schedule.decay, old.options.schedule.ghost_batch_size) == ("all", None)
    assert deviations(old.manifest) == ["schedule.decay=all"]
    assert deviations(new.manifest) == []
    assert sorted(comparison.title for comparison in groups.group(runs)) == [
        "Digits, 275 steps, schedule.decay=all, schedule.ghost_batch_size=None",
        "Digits, 275 steps, schedule.decay=weights, schedule.ghost_batch_size=64",
    ]
