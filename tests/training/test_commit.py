"""The commit on a run's record, and the reason if there is none."""

import subprocess
from pathlib import Path

import pytest

from resnet_repro.training.manifest import git_commit
from resnet_repro.training.run import run
from tests.helpers.runs import prepared


def git(folder: Path, *args: str) -> str:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    command = ["git", "-C", str(folder), *identity, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a folder of a checkout with one commit."""
    path = tmp_path / "check out" / "src"
    path.mkdir(parents=True)
    (path / "manifest.py").write_text("first")
    git(path, "init", "--quiet")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "--message", "Begin")
    return path


def test_the_commit_shows_whether_files_have_changed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git(package, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/elsewhere")  # as in a hook of another repository
    assert git_commit(package) == (head, None)
    (package / "manifest.py").write_text("second")
    assert git_commit(package) == (head + "+", None)


def test_a_shallow_clone_has_its_commit(package: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{package.parent}/src", str(clone))
    assert git_commit(clone) == (git(package, "rev-parse", "HEAD"), None)


def test_the_checkout_of_another_user_has_no_commit(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert git_commit(package) == (
        None,
        f"git does not read {package}, which belongs to another user: "
        f"allow it with `git config --global --add safe.directory '{package}'`",
    )


def test_without_git_there_is_no_commit(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(package))
    assert git_commit(package) == (None, "git is not installed: install it")


def test_a_damaged_repository_has_no_commit(package: Path) -> None:
    (package / ".git" / "HEAD").unlink()
    commit = git_commit(package)
    assert commit.name is None
    assert commit.why_none is not None
    assert commit.why_none.startswith(f"the repository {package} is damaged (not a git repository")
    assert commit.why_none.endswith("): clone it again")


def test_an_empty_repository_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / "manifest.py").touch()
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    assert git_commit(tmp_path) == (None, f"the repository {tmp_path} has no commit yet: make one")


def test_an_installed_copy_has_no_commit(package: Path, tmp_path: Path) -> None:
    (package / "lib").mkdir()
    for copy, state in ((package / "lib", "an installed copy and no checkout"), (tmp_path, "in no git repository")):
        assert git_commit(copy) == (None, f"{copy} is {state}: run the code of a checkout")


def test_log_and_manifest_say_why_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    manifest = run(prepared(tmp_path, "schedule.steps=1"))
    assert manifest["git_commit"] is None
    assert "which belongs to another user: allow it with" in manifest["why_no_commit"]
    assert f"no commit on record: {manifest['why_no_commit']}\n" in capsys.readouterr().out
