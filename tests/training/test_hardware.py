"""How each `auto` of `hardware` is decided on a machine, and which hardware is refused there."""

from pathlib import Path
from typing import Any

import pytest

from resnet_repro.errors import UserError
from resnet_repro.runs.options import Hardware
from resnet_repro.training.hardware import gains_by_a_graph, settle
from tests.helpers.compilers import needs_compiler
from tests.helpers.runs import composed, resolved


def hardware(**options: Any) -> Hardware:
    asked = composed("data=digits")["hardware"]
    return Hardware.parse(asked | {"accelerator": "cpu", "channels_last": True} | options)


def on(monkeypatch: pytest.MonkeyPatch, *, machine: str, system: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("sys.platform", system)


@needs_compiler
def test_auto_fuses_on_x86_in_channels_last_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, machine="x86_64", system="linux")
    assert settle(hardware()).fused is True
    assert settle(hardware(num_threads=2)).fused is True
    assert settle(hardware(channels_last=False)).fused is False
    assert settle(hardware(fused=False)).fused is False
    on(monkeypatch, machine="arm64", system="darwin")
    assert settle(hardware()).fused is False


@needs_compiler
def test_auto_compiles_long_fused_runs_on_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, machine="x86_64", system="linux")
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert settle(hardware(), may_compile=True).compile is True
    assert settle(hardware(), may_compile=False).compile is False
    assert settle(hardware(fused=False), may_compile=True).compile is False
    assert settle(hardware(recompute=True), may_compile=True).compile is False
    assert settle(hardware(compile=True)).compile is True
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    assert settle(hardware(), may_compile=True).compile is False


def test_auto_records_graphs_on_a_gpu_where_the_run_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settle(hardware(), may_graph=True).graph is False
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    on_gpu = hardware(accelerator="auto")
    assert settle(on_gpu, may_graph=True).graph is True
    assert settle(on_gpu, may_graph=False).graph is False
    assert settle(on_gpu.but(graph=False), may_graph=True).graph is False
    assert settle(on_gpu.but(graph=True)).graph is True


@pytest.mark.parametrize(
    ("options", "gains"),
    [
        (["arch=plain", "depth=56"], True),
        (["data=digits", "hardware.recompute=true"], True),
        (["arch.shortcut=dropout", "hardware.recompute=true"], False),
        (["data.loader=dataloader"], False),
        (["hardware=ddp_2cpu"], False),
        (["data=imagenet", "depth=50"], False),
        (["arch=torchvision", "arch.name=alexnet", "arch.image_size=64"], False),
    ],
    ids=str,
)
def test_a_run_gains_by_a_graph_if_its_images_are_on_its_one_gpu(options: list[str], gains: bool) -> None:
    assert gains_by_a_graph(resolved(*options)) is gains


def test_auto_does_not_fuse_without_a_compiler(no_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, machine="x86_64", system="linux")
    assert settle(hardware()).fused is False


def test_fused_without_a_compiler_is_refused(no_compiler: None) -> None:
    with pytest.raises(UserError, match=r"^hardware\.fused=true needs a C compiler, and none is on the PATH; install"):
        settle(hardware(fused=True))


@pytest.mark.parametrize("fused", [True, "auto"])  # "auto" may not fall back: the run would have other last digits
def test_a_failing_compiler_is_named_with_its_error(
    fused: bool | str, no_compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, machine="x86_64", system="linux")
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'fused.c:1: error: it is broken' >&2\nexit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(UserError, match=r"/cc cannot compile fused\.c \(fused\.c:1: error: it is broken\): run "):
        settle(hardware(fused=fused))


def test_fused_in_another_layout_is_refused() -> None:
    with pytest.raises(UserError, match=r"^hardware\.fused=true needs a CPU and hardware\.channels_last=true; use"):
        settle(hardware(fused=True, channels_last=False))
