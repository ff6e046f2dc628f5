"""Output ends no run: signs that a terminal cannot show, names that are no text, closed pipes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_repro.output import ASCII
from tests.helpers.commands import ROOT, environment, manifests, run
from tests.helpers.synthetic_runs import write_every_state

SMALL = ("data=digits", "depth=8", "schedule.steps=3", "logger=csv", "hardware.fused=false", "jobs=1")
BEGIN = "from resnet_repro.output import make_lenient; make_lenient()\n"
NARROW = [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]


def printed(code: str, **variables: str) -> bytes:
    """Return the output of a program that begins as our commands do."""
    env = {**os.environ, "PYTHONCOERCECLOCALE": "0", **variables}
    return subprocess.run([sys.executable, "-c", BEGIN + code], env=env, capture_output=True, check=True).stdout


@pytest.mark.parametrize("variables", NARROW, ids=str)
def test_every_sign_we_print_has_an_ascii_form(variables: dict[str, str]) -> None:
    signs = "".join(ASCII)
    said = printed(f"print({signs!a}, 'gr\\xf6\\xdfe \\u2713')", **variables)
    assert b"?" not in said
    assert b"\\" not in said
    assert said.rstrip().endswith(b" +")


def test_a_file_name_that_is_no_text_can_be_printed() -> None:
    assert printed(r"print(b'/x/\xff'.decode('utf-8', 'surrogateescape'))") == b"/x/\\udcff\n"


def test_every_sign_in_our_files_has_an_ascii_form() -> None:
    for path in (*(ROOT / "src").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml")):
        signs = {sign for sign in path.read_text(encoding="utf-8") if not sign.isascii()}
        assert signs <= ASCII.keys(), path


def test_a_closed_pipe_ends_no_program() -> None:
    code = f"{BEGIN}import sys\nfor n in range(10**5): print(n)\nsys.stdout.flush()\nprint('whole', file=sys.stderr)"
    command = f'{sys.executable} -c "{code}" | head -1; echo ${{PIPESTATUS[0]}}'
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("0\n0\n", "whole\n")


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">/dev/full"])
def test_a_run_needs_no_output(closed: str, tmp_path: Path) -> None:
    command = " ".join([sys.executable, str(ROOT / "train.py"), *SMALL, closed])
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(tmp_path), check=False, timeout=240)
    assert result.returncode == 0
    assert len(manifests(tmp_path / "outputs")) == 1


def test_a_sweep_whose_output_nobody_reads_makes_all_its_runs(tmp_path: Path) -> None:
    command = " ".join([sys.executable, str(ROOT / "train.py"), "-m", *SMALL, "seed=0,1", "2>&1 | head -1"])
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(tmp_path), check=True, timeout=240)
    assert len(manifests(tmp_path / "outputs")) == 2


def test_a_sweep_survives_a_terminal_without_its_signs(tmp_path: Path) -> None:
    options = ("-m", *SMALL, "seed=0,1", f'outputs="{tmp_path}/größe"')
    status, output = run("train.py", *options, home=tmp_path, variables={"PYTHONIOENCODING": "ascii"})
    assert status == 0, output
    assert len(manifests(tmp_path / "größe")) == 2
    assert "+ resnet_v1-8-s1__steps=3" in output


COMMANDS = [
    ("report.py", "details=true"),
    ("train.py", "summary=true", "data=digits"),
    ("train.py", "plan=true"),
    ("train.py", "--help"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_tables_are_shown_in_ascii(command: tuple[str, ...], tmp_path: Path) -> None:
    if command[0] == "report.py":
        write_every_state(tmp_path / "outputs")
    status, output = run(*command, home=tmp_path, variables={"PYTHONIOENCODING": "ascii"})
    assert status == 0, output
    assert output.isascii()
    assert "?" not in output.replace("? not decided", "")
