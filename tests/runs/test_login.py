"""The package finds a login to W&B where W&B finds it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_repro.runs.wandb_account import is_logged_in
from tests.helpers.commands import environment
from tests.helpers.wandb_server import WandbServer


def test_a_login_to_a_users_own_server_is_found(
    wandb_server: Callable[..., WandbServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    assert not is_logged_in()
    server = wandb_server()
    command = [Path(sys.executable).with_name("wandb"), "login", f"--host={server.url}", "1" * 40]
    subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), check=True, capture_output=True)
    assert is_logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not is_logged_in()


@pytest.mark.parametrize("host", ["api.wandb.ai", "api.forge.coreweave.com"])
def test_a_login_to_wandbs_server_is_found_under_both_names(
    host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text(f"machine {host}\n  login user\n  password {'1' * 40}\n")
    assert is_logged_in()
