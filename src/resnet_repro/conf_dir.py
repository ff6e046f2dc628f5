"""Where this package is, in a checkout or installed: the place of its configs, and how its commands are typed."""

import shlex
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PACKED = Path(__file__).with_name("conf")
"""conf/ in an installed wheel; a checkout has it beside src/."""


def config_dir() -> Path:
    """Return the folder conf/."""
    return PACKED if PACKED.is_dir() else CHECKOUT / "conf"


def command(name: str) -> str:
    """Return a command as a person types it: `python train.py` in a checkout, `resnet-repro train` elsewhere."""
    return f"resnet-repro {name}" if PACKED.is_dir() else f"python {name}.py"


def command_line(starter: str = "python") -> str:
    """Return the command of this process as a person types it again.

    Args:
        starter: the program that starts a script of ours, such as torchrun.
    """
    script, *options = sys.argv
    words = [starter, script] if script.endswith(".py") else [starter] * (starter != "python") + script.split(" ")
    return shlex.join([*words, *options])
